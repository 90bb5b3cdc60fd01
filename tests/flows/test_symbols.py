"""The watch-list of a session that records, changed by the command and by a Prefect variable."""

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.replay.generate import SYMBOLS, generate
from tasks.replay.run import serve_in_thread
from tasks.replay.server import ReplayOptions


def status_of(data: Path) -> dict[str, Any]:
    for path in data.glob("sessions/*/status.json"):
        return dict(json.loads(path.read_text()))
    return {}


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 45
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_the_command_and_a_variable_change_what_a_session_hears(tape: Any) -> None:
    """`tape symbols` and the followed variable add and remove symbols of a live session; the ledger says when."""
    first, second, third = SYMBOLS[:3]
    data = tape.folder / "data"
    tape.server.ask("variables/", {"name": "tape_symbols", "value": [second, third]})
    with serve_in_thread(generate(4, 120), ReplayOptions(speed=1.0)) as server:
        recording = tape.start(
            "record", first, "--for", "60s", "--feed-url", server.url, "--lanes", "ticker", "--json",
            TAPE_SYMBOLS_VARIABLE="tape_symbols",
        )  # fmt: skip
        # Followed from the first look on, five seconds after the start.
        wait_for(lambda: status_of(data).get("symbols") == [second, third])
        wait_for(lambda: status_of(data)["per_symbol"].get(third))
        adding = threading.Thread(target=tape.run, args=("symbols", "add", first))
        adding.start()
        wait_for(lambda: status_of(data)["symbols"] == [second, third, first])
        adding.join()
        assert tape.run("symbols", "remove", second, third).returncode == 0
        listed = tape.run("symbols", "list")
        assert [line.split("\t")[0] for line in listed.stdout.splitlines()] == [first]
        recording.send_signal(signal.SIGINT)
        out, err = recording.communicate(timeout=60)
    assert recording.returncode == 0, err[-3000:]
    ledger = json.loads(out.splitlines()[-1])
    assert [(each["symbol"], each["action"]) for each in ledger["changes"]] == [
        (first, "removed"),
        (second, "added"),
        (third, "added"),
        (first, "added"),
        (second, "removed"),
        (third, "removed"),
    ]
    assert (ledger["connections"], ledger["gaps"], ledger["balances"]) == (1, [], True)
    assert set(ledger["per_symbol"]) == {first, second, third}
    nobody = tape.run("symbols", "add", "AAPL")
    assert nobody.returncode == 1
    assert "none records" in nobody.stderr
