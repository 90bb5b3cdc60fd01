"""The demo and the replay show what they promise, as commands."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from websockets.sync.client import connect

from tasks.replay.generate import generate
from tasks.replay.tape_file import write_tape
from tasks.storage.store import Store
from tasks.verify.laws import verify


@pytest.mark.slow
def test_the_demo_needs_nothing_and_shows_everything(tape: Any, until: Any) -> None:
    """`tape demo` records, archives while it records, prints ledger and next steps; no setting of the user's counts."""
    (tape.folder / ".env").write_text("TAPE_SYMBOLS=WRONG\nTAPE_LANES=no-number\nFINNHUB_API_KEY=from-the-file\n")
    wrong = {"TAPE_FEED_URL": "wss://nowhere.invalid", "TAPE_S3_BUCKET": "not-to-be-touched", "tape_calendar": "none"}
    showing = tape.start("demo", "--for", "6", **wrong)
    data = tape.folder / "demo-data"
    until(lambda: list(data.glob("archive/**/*.manifest.json")))
    assert tape.status(data)["state"] == "recording"
    out, err = showing.communicate(timeout=60)
    assert showing.returncode == 0, err[-3000:]
    next_steps = ("what to try next", "tape verify --data-dir demo-data")
    for said in ("ws://127.0.0.1:", "the ledger balances", "gaps: 0", *next_steps):
        assert said in out
    assert "archived" in err
    verdict = verify(Store(data))
    assert verdict.holds
    assert verdict.trades > 500
    assert not tape.data.exists()


def listening(process: "subprocess.Popen[str]") -> str:
    """The URL on the first line of a replay's stdout."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_replay_serves_whoever_subscribes_and_ends_by_itself_or_when_told(tape: Any, tmp_path: Path) -> None:
    """The URL comes first; --exit-at-end ends at the tape's end, SIGTERM at any time; both with 0 and what was sent."""
    path = tmp_path / "tape.csv.gz"
    write_tape(generate(4, 30), path)
    ending = tape.start("replay", path, "--port", "0", "--speed", "max", "--exit-at-end")
    going_on = tape.start("replay", path, "--port", "0")
    url = listening(ending)
    assert url.startswith("ws://127.0.0.1:")
    with connect(f"{url}/?token=any") as client:
        client.send(json.dumps({"type": "subscribe", "symbol": "SPY"}))
        kinds = {json.loads(message)["type"] for message in client}
    assert "trade" in kinds
    out, err = ending.communicate(timeout=30)
    assert (ending.returncode, err) == (0, "")
    assert "trades" in out
    assert listening(going_on).startswith("ws://127.0.0.1:")
    going_on.send_signal(signal.SIGTERM)
    out, err = going_on.communicate(timeout=30)
    assert (going_on.returncode, err) == (0, "")
    assert "trades" in out


@pytest.mark.slow
def test_the_demo_is_shown_in_the_browser_until_it_is_told_to_end(tape: Any, until: Any) -> None:
    """`tape demo --dashboard` serves the page beside the recording, and after it until a signal, which ends both."""
    showing = tape.start("demo", "--for", "6", "--dashboard")
    assert showing.stdout is not None
    lines = iter(showing.stdout.readline, "")
    address = next(line for line in lines if " shows " in line).split()[0]
    with urlopen(f"{address}healthz", timeout=60) as answer:
        assert answer.read() == b"ok\n"
    assert any("the ledger balances" in line for line in lines)
    assert any("the web page stays until Ctrl-C" in line for line in lines)
    with urlopen(f"{address}archive", timeout=60) as answer:
        assert answer.status == 200
    showing.send_signal(signal.SIGTERM)
    assert showing.wait(60) == 0
    with pytest.raises(OSError, match="refused"):
        urlopen(f"{address}healthz", timeout=60)
