"""A recording is not affected by an outage of Prefect's API, and neither is what is archived."""

import hashlib
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect_server import free_port

from tasks.replay.generate import SYMBOLS, generate
from tasks.replay.run import serve_in_thread
from tasks.replay.server import ReplayOptions
from tasks.replay.tape_file import write_tape


@pytest.fixture
def own_server(tape: Any, tmp_path: Path) -> Iterator[Any]:
    """This test's own Prefect server, which `tape` uses."""
    server = type(tape.server)(tmp_path / "prefect")
    tape.server = server
    server.start()
    yield server
    server.stop()


@pytest.mark.slow
def test_an_outage_of_the_api_does_not_touch_the_recording(tape: Any, until: Any, own_server: Any) -> None:
    """If the API is killed and returns mid-session, nothing is missed, and the run ends Completed and balances."""
    with serve_in_thread(generate(12, 120), ReplayOptions(speed=1.0)) as server:
        recording = tape.start(
            "record", *SYMBOLS[:6], "--for", "5m", "--feed-url", server.url, "--batch-for", "1s", "--json"
        )
        until(lambda: tape.status().get("trades", 0) > 100)
        own_server.stop()
        heard, sealed = tape.status()["trades"], tape.status()["batches_sealed"]
        until(lambda: tape.status()["trades"] > heard + 300 and tape.status()["batches_sealed"] > sealed + 1)
        assert tape.status()["state"] == "recording"
        own_server.start()
        recording.send_signal(signal.SIGINT)
        ledger = tape.printed(recording)
    assert (ledger["outcome"], ledger["balances"], ledger["gaps"]) == ("stopped", True, [])
    assert ledger["connections"] == 1
    assert tape.verdict().holds
    (run,) = own_server.ask("flow_runs/filter", {"flows": {"name": {"any_": ["record-session"]}}})
    assert run["state"]["type"] == "COMPLETED"


def test_without_the_api_the_same_bytes_are_archived(tape: Any, sealed_session: Callable[[], str]) -> None:
    """The same sealed batches, archived and closed with the API up and with it down, give the same files, all of them.

    A copy of the folder has the same names and stamps, so that nothing may differ: every file of the archive, its
    manifests included, of the quarantine, and of the closed day is compared by its SHA-256.
    """
    sealed_session()
    (date,) = {path.read_text().partition('"date": "')[2][:10] for path in tape.store.sealed.glob("*.json")}
    copy = tape.folder / "copy"
    shutil.copytree(tape.data, copy)
    down = {"PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}
    for data, settings in ((tape.data, {}), (copy, down)):
        for words in (("archive",), ("close", "--date", date)):
            done = tape.run(*words, TAPE_DATA_DIR=str(data), TAPE_MAX_EVENT_AGE="off", **settings)
            assert done.returncode == 0, done.stdout + done.stderr
            assert ("continuing without Prefect" in done.stderr) == bool(settings)
    with_api, without = files_of(tape.data), files_of(copy)
    assert with_api == without
    assert len([name for name in with_api if name.endswith(".parquet")]) > 2


@pytest.mark.slow
def test_without_the_api_the_same_trades_are_recorded(tape: Any, until: Any) -> None:
    """One tape, recorded with the API up and with it down the whole time, is exported as the same bytes: the tape's.

    Two recordings have names and receive times of their own, and so have their archived files; what the feed sent is
    the same in both, value by value and in order.
    """
    write_tape(generate(12, 60), tape.folder / "given.csv")
    given = (tape.folder / "given.csv").read_bytes()
    any_time = {"TAPE_MAX_EVENT_AGE": "off", "TAPE_MAX_EVENT_AHEAD": "off"}
    for name, settings in (("up", {}), ("down", {"PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"})):
        data = tape.folder / name
        here = {"TAPE_DATA_DIR": str(data), **any_time, **settings}
        with serve_in_thread(tape.folder / "given.csv", ReplayOptions(speed=None, original_times=True)) as server:
            words = ("--for", "5m", "--feed-url", server.url, "--batch-for", "1s", "--json")
            recording = tape.start("record", *SYMBOLS, *words, **here)
            until(lambda data=data: tape.status(data).get("trades") == given.count(b"\n") - 1)
            recording.send_signal(signal.SIGINT)
            ledger = tape.printed(recording)
        assert (ledger["outcome"], ledger["balances"], ledger["gaps"]) == ("stopped", True, [])
        assert tape.run("export", f"{name}.csv", **here).returncode == 0
        assert (tape.folder / f"{name}.csv").read_bytes() == given


def files_of(data: Path) -> dict[str, str]:
    """The SHA-256 of every file of archive, quarantine, and closed days, by its name."""
    paths = [path for name in ("archive", "quarantine", "days") for path in (data / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
