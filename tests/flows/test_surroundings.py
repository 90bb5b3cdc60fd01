"""Does a command do its work whatever lies in the working folder, and go the way that the environment names?"""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from connect_proxy import proxying
from prefect_server import ROOT
from shadows import cast

from flows.doctor import examine
from flows.settings import load_settings
from tasks.replay.generate import generate
from tasks.replay.run import serve_in_thread
from tasks.replay.server import ReplayOptions


@pytest.fixture(autouse=True)
def no_proxies() -> Iterator[None]:
    """None of the proxies that the developer's machine has."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            patch.delenv(name)
        yield


def test_a_folder_full_of_files_named_like_modules_records_and_archives(tape: Any) -> None:
    """`tape record` beside a user's tasks.py, queue.py, flows/ and so on, which PYTHONPATH names: all of it is ours."""
    cast(tape.folder)
    (tape.folder / "sitecustomize.py").unlink()  # Python itself imports it, before anything of ours.
    with serve_in_thread(generate(21, 30), ReplayOptions(speed=1.0)) as server:
        ledger = tape.json(
            "record", "SPY", "--for", "2s", "--feed-url", server.url, PYTHONPATH=f":{tape.folder}:{ROOT}"
        )
    assert ledger["balances"]
    assert ledger["trades"]["archived"] > 0


def test_doctor_says_the_way_to_the_feed_and_which_variable_is_wrong(tape: Any) -> None:
    """A feed elsewhere is looked for by the proxy that a recording would take; one that none can take is told."""
    with (
        serve_in_thread(generate(22, 5), ReplayOptions(speed=1.0)) as server,
        proxying(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as proxy,
    ):
        for value, state, text in (
            (f"http://127.0.0.1:{proxy.port}", "ok", "feed.invalid:80, by the proxy of http_proxy, can be reached"),
            ("socks5://127.0.0.1:1", "wrong", "http_proxy: names a proxy of another kind than http://"),
        ):
            with tape.here(TAPE_FEED_URL="ws://feed.invalid", http_proxy=value, no_proxy="127.0.0.1"):
                (feed,) = [finding for finding in examine(load_settings()) if finding.name == "feed"]
            assert feed.state == state
            assert feed.text.startswith(text)
    assert [lines[0] for lines in proxy.asked] == ["CONNECT feed.invalid:80 HTTP/1.1"]
