"""A key is sent only to its vendor's hosts, and exposures are reported."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from flows.deadline import key_of
from flows.settings import load_settings
from flows.surroundings import exposures
from tasks.errors import SettingsError
from tasks.replay.generate import generate
from tasks.replay.run import serve_in_thread
from tasks.replay.server import ReplayOptions


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two keys, and nothing else of ours, in the environment; a folder without `.env`."""
    for name in list(os.environ):
        if name.upper().startswith(("TAPE_", "FINNHUB_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FINNHUB_API_KEY", "vendors")
    monkeypatch.setenv("TAPE_REPLAY_KEY", "own")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("wss://ws.finnhub.io", "vendors"),
        ("wss://WS.Finnhub.IO.:443/", "vendors"),
        ("wss://finnhub.io/v2", "vendors"),
        ("ws://127.0.0.1:8765", "own"),
        ("ws://localhost:8765", "own"),
        ("wss://[::1]:8765", "own"),
        ("ws://0.0.0.0:1", "own"),
    ],
)
def test_each_feed_gets_its_own_key(url: str, key: str) -> None:
    """However its address is spelled: the vendor's key for the vendor, another for a feed on this machine."""
    assert key_of(load_settings(feed_url=url)).get_secret_value() == key


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "finnhub.io.evil.example", "notfinnhub.io", "ws-finnhub.io", "finnhub.io.io", "10.0.0.1",
        "localhost.evil.example", "128.0.0.1", "[2001:db8::1]", "xn--fnnhub-lvb.io",
    ],
)  # fmt: skip
def test_no_other_host_gets_a_key(host: str) -> None:
    """One line names the host and says what to do for a relay of one's own."""
    with pytest.raises(
        SettingsError, match=r"^TAPE_FEED_URL: .* so its key is not sent there; .* TAPE_REPLAY_KEY$"
    ) as caught:
        key_of(load_settings(feed_url=f"wss://{host}:8443"))
    assert "vendors" not in str(caught.value)


def test_a_foreign_feed_is_refused_before_anything_is_done(tape: Any) -> None:
    """As a shell sees it: exit 2, one line, no server started, no folder made."""
    done = tape.run("record", "AAPL", "--for", "5s", "--feed-url", "wss://evil.example")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert "evil.example" in done.stderr
    assert not tape.data.exists()


@pytest.mark.slow
def test_what_is_recorded_is_for_its_owner_alone(tape: Any) -> None:
    """Every file is 0600 and every folder 0700, also under the umask that most have; for a group 0640 and 0750."""
    before = os.umask(0o022)
    try:
        with serve_in_thread(generate(4, 30), ReplayOptions(speed=1.0)) as server:
            feed = ("--feed-url", server.url, "--batch-for", "1s")
            tape.json("record", "SPY", "NVDA", "--for", "3s", *feed)
            shared = tape.folder / "shared"
            tape.json("record", "SPY", "--for", "2s", *feed, "--data-dir", shared, TAPE_DATA_ACCESS="group")
    finally:
        os.umask(before)
    for root, allowed in ((tape.data, 0o700), (shared, 0o750)):
        found = [root, *root.rglob("*")]
        assert len(found) > 20
        for path in found:
            assert not stat.S_IMODE(path.stat().st_mode) & ~allowed, path
    assert stat.S_IMODE(shared.stat().st_mode) == 0o750
    assert {stat.S_IMODE(path.stat().st_mode) for path in shared.glob("archive/*/*/*.parquet")} == {0o640}


def test_what_lies_open_is_told(tmp_path: Path) -> None:
    """A feed without TLS beyond this machine, an `.env` and a data folder that others can read: a line each."""
    assert exposures(load_settings(feed_url="ws://127.0.0.1:1")) == []
    (tmp_path / ".env").touch(mode=0o600)
    (tmp_path / "data").mkdir(mode=0o700)
    assert exposures(load_settings(feed_url="wss://ws.finnhub.io")) == []
    (tmp_path / ".env").chmod(0o644)
    (tmp_path / "data").chmod(0o755)
    told = exposures(load_settings(feed_url="ws://ws.finnhub.io"))
    assert len(told) == 3
    assert "wss://" in told[0]
    assert "chmod go= .env" in told[1]
    assert f"chmod go= {tmp_path / 'data'}" in told[2]
    (tmp_path / "data").chmod(0o750)
    (tmp_path / ".env").chmod(0o600)
    assert exposures(load_settings(data_access="group")) == []
    assert len(exposures(load_settings())) == 1
