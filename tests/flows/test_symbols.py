"""The watch-list of a session that records, changed by the command and by a Prefect variable."""

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from recording import Recording, ask

from tasks.capture.supervise import Recorder
from tasks.records.status import read_status
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


@pytest.mark.slow
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


@pytest.fixture
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    """A recorder of AAPL and MSFT, in a thread of this process; not in the folder whose recorders `tape` kills."""
    with serve_in_thread([], ReplayOptions()) as server:
        recording = Recording(ask(tmp_path_factory.mktemp("recorded"), server.url, ("AAPL", "MSFT")))
        recording.when(lambda status: status.state == "recording")
        yield Recorder(recording.request, None)
        recording.end()


class Told(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def test_a_variable_that_lists_no_symbols_leaves_the_list_alone(recorder: Recorder, tape: Any) -> None:
    """Whatever else a Prefect variable holds is warned of once, with its name and what is wrong; a list is followed."""
    from tasks.capture.task import _follow, _Followed

    name, told, log = "followed_by_this_test", Told(), logging.getLogger("follow")
    log.setLevel(logging.INFO)
    log.addHandler(told)
    known = _Followed()

    def look() -> str:
        """One look at the variable: what was logged."""
        nonlocal known
        told.lines.clear()
        known = _follow(name, known, recorder, log)
        return "\n".join(told.lines)

    def symbols() -> Any:
        return getattr(read_status(recorder.request.folder), "symbols", None)

    with tape.here():
        assert "prefect variable set followed_by_this_test" in look()
        variable = tape.server.ask("variables/", {"name": name, "value": "AAPL;MSFT"})["id"]
        for value, said in (
            ("AAPL;MSFT", "'AAPL;MSFT' is not a symbol"),
            ("AAPL MSFT", "separate symbols with commas"),
            ({"AAPL": 1}, "an object"),
            (5, "a number"),
            (None, "null"),
            ([], "is not set, or empty"),
            (["AAPL", 1], "lists a number"),
        ):
            tape.server.ask(f"variables/{variable}", {"value": value}, method="PATCH")
            line = look()
            assert name in line
            assert said in line
            assert symbols() == ("AAPL", "MSFT")
            assert look() == ""
        tape.server.ask(f"variables/{variable}", {"value": "MSFT,IC MARKETS:1"}, method="PATCH")
        assert "2 symbols" in look()
        assert symbols() == ("MSFT", "IC MARKETS:1")
        tape.server.ask(f"variables/{variable}", {"value": "MSFT;AAPL"}, method="PATCH")
        assert "MSFT;AAPL" in look()
        assert symbols() == ("MSFT", "IC MARKETS:1")
