"""Symbols are added and removed while a session records, without a reconnect, and the record says when."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import FaultServer, Send, Stall, Subscribed

from tasks.capture.clock import Clock
from tasks.capture.gaps import GapBook
from tasks.capture.listener import Listener
from tasks.capture.recovery import close_killed
from tasks.capture.request import CaptureRequest, WatchList, save_request
from tasks.capture.session import Session
from tasks.capture.supervise import change_symbols
from tasks.errors import TerminalError
from tasks.records.ledger import SessionRecord
from tasks.records.manifest import Seal, read
from tasks.records.sessions import WATCHLIST_FILE
from tasks.records.status import read_status
from tasks.records.trade import NS_PER_S, Trade
from tasks.replay.run import serve_in_thread
from tasks.replay.server import ReplayOptions
from tasks.storage.store import Store


def trades(symbol: str, count: int, first: int = 0) -> list[Trade]:
    return [Trade((1_700_000_000 + n) * NS_PER_S, symbol, f"{n}.5", "1") for n in range(first, first + count)]


class Running:
    """A session that runs in a thread of this process."""

    def __init__(self, root: Path, url: str, symbols: tuple[str, ...], **changes: Any) -> None:
        now_ns = time.time_ns()
        self.request = CaptureRequest(
            session="20260102T150405Z-00c0ffee", data_dir=root, feed_url=url, symbols=symbols, started_ns=now_ns,
            deadline_ns=now_ns + 60 * NS_PER_S, **changes,
        )  # fmt: skip
        save_request(self.request)
        self.session = Session(self.request, "key")
        self.record: SessionRecord | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.record = self.session.run()

    def status(self, what: str) -> Any:
        return getattr(read_status(self.request.folder), what, None)

    def end(self) -> SessionRecord:
        self.session.stop()
        self.thread.join(20)
        assert self.record is not None
        return self.record


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start a session in a thread; end it if a failing test did not."""
    started: list[Running] = []

    def start(url: str, symbols: tuple[str, ...], **changes: Any) -> Running:
        started.append(Running(tmp_path, url, symbols, **changes))
        return started[-1]

    yield start
    for each in started:
        each.session.stop()
        each.thread.join(20)


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_symbols_come_and_go_without_a_reconnect(
    tmp_path: Path, run: Callable[..., Running], fault_server: Callable[..., FaultServer]
) -> None:
    """An added symbol is subscribed and recorded, a removed one unsubscribed, on the same connection."""
    later = threading.Event()
    server = fault_server(
        [Subscribed("A", "B"), Send(trades("A", 3)), Subscribed("C"), Send(trades("C", 4)), Stall(later)]
    )
    running = run(server.url, ("A", "B"))
    wait_for(lambda: running.status("trades") == 3)
    change_symbols(running.request.folder, lambda now: (*now, "C"))
    assert running.status("symbols") == ("A", "B", "C")
    wait_for(lambda: running.status("trades") == 7)
    change_symbols(running.request.folder, lambda now: tuple(each for each in now if each != "A"))
    server.connection(0).wait_heard("unsubscribe", "A")
    later.set()
    record = running.end()
    assert (record.connections, record.gaps, record.symbols) == (1, (), ("A", "B", "C"))
    assert [(change.symbol, change.action) for change in record.changes] == [("C", "added"), ("A", "removed")]
    assert record.started_ns < record.changes[0].at_ns < record.changes[1].at_ns < record.ended_ns
    assert record.never_heard == ("B",)
    store = Store(tmp_path)
    (name,) = store.sealed_batches()
    assert read(store.sealed / name.seal, Seal).symbols == ("A", "B", "C")
    asked = [(heard.kind, heard.what) for heard in server.connection(0).heard if "subscribe" in heard.kind]
    assert asked[:4] == [("subscribe", "A"), ("subscribe", "B"), ("subscribe", "C"), ("unsubscribe", "A")]


def test_a_symbol_added_while_there_is_no_connection_is_in_a_gap_until_there_is_one(
    run: Callable[..., Running], fault_server: Callable[..., FaultServer]
) -> None:
    """A symbol added between two connections has its own gap, which ends with its subscription."""
    server = fault_server()
    server.refuse()
    running = run(server.url, ("A",))
    wait_for(lambda: running.status("open_gaps"))
    change_symbols(running.request.folder, lambda now: (*now, "B"))
    wait_for(lambda: len(running.status("open_gaps")) == 2)
    server.stop()
    record = running.end()
    by_symbol = {gap.symbols: gap for gap in record.gaps}
    assert by_symbol["A",].start_ns == record.started_ns
    assert by_symbol["B",].start_ns == record.changes[0].at_ns > record.started_ns
    assert by_symbol["B",].reason == "added while there was no connection"


def test_a_symbol_too_many_is_named_and_served_once_a_slot_is_free(run: Callable[..., Running]) -> None:
    """Symbols for which the vendor has no slot are in a gap until another's removal frees one."""
    tape = [trade for n in range(400) for symbol in "ABCD" for trade in trades(symbol, 1, n)]
    with serve_in_thread(tape, ReplayOptions(speed=20.0, max_symbols=2, original_times=True)) as feed:
        running = run(feed.url, ("A", "B", "C", "D"))
        wait_for(lambda: running.status("refused_symbols") == ("C", "D"))
        assert "refused 2 symbols" in running.status("notice")
        change_symbols(running.request.folder, lambda now: tuple(each for each in now if each != "A"))
        wait_for(lambda: running.status("refused_symbols") == ("D",) and running.status("per_symbol")["C"] > 0)
        record = running.end()
    assert record.refused == ("D",)
    assert record.never_heard == ("D",)
    gaps = [gap for gap in record.gaps if gap.reason.startswith("refused: ")]
    of_c = [gap for gap in gaps if "C" in gap.symbols]
    assert of_c
    assert all(gap.end_ns is not None and gap.end_ns < record.ended_ns for gap in of_c)
    assert any("D" in gap.symbols and gap.end_ns == record.ended_ns for gap in gaps)


def test_the_list_survives_a_kill(tmp_path: Path) -> None:
    """What a killed recorder had added stays in its record, and in the seals of what it left."""
    now_ns = time.time_ns()
    request = CaptureRequest(
        session="20260102T150405Z-00c0ffee", data_dir=tmp_path, feed_url="ws://127.0.0.1:1", symbols=("A",),
        started_ns=now_ns, deadline_ns=now_ns + NS_PER_S,
    )  # fmt: skip
    store = Store(tmp_path).prepare()
    save_request(request)
    WatchList(request.folder / WATCHLIST_FILE, ("A",)).change(("B", "A"), 5)
    WatchList(request.folder / WATCHLIST_FILE, ("A",)).change(("B",), 6)
    record = close_killed(store, request.session, now_ns)
    assert record.symbols == ("A", "B")
    assert [(each.at_ns, each.symbol, each.action) for each in record.changes] == [
        (5, "B", "added"),
        (6, "A", "removed"),
    ]


def test_the_last_symbol_cannot_be_removed_and_a_damaged_wish_changes_nothing(
    tmp_path: Path, run: Callable[..., Running], fault_server: Callable[..., FaultServer]
) -> None:
    """An empty list is refused with an explanation; a damaged request is ignored and the session goes on."""
    server = fault_server([Subscribed("A")])
    running = run(server.url, ("A",))
    wait_for(lambda: running.status("state") == "recording")
    with pytest.raises(TerminalError, match="end the session instead"):
        change_symbols(running.request.folder, lambda now: ())
    (running.request.folder / "requests" / "x.json").write_text(json.dumps({"symbols": ["B"]}))
    before = running.status("updated_ns")
    wait_for(lambda: running.status("updated_ns") > before + NS_PER_S)
    assert running.status("symbols") == ("A",)
    assert running.end().outcome == "stopped"


def test_a_symbol_added_at_the_moment_of_a_loss_is_in_a_gap(tmp_path: Path) -> None:
    """The gap of the loss is open, but the listener does not say so yet: the added symbol gets a gap of its own."""
    request = CaptureRequest(
        session="20260102T150405Z-00c0ffee", data_dir=tmp_path, feed_url="ws://127.0.0.1:1", symbols=("A",),
        started_ns=1, deadline_ns=2,
    )  # fmt: skip
    save_request(request)
    failures, gaps = list[BaseException](), GapBook(request.folder / "gaps.log")
    listener = Listener(request, "key", lambda _received: None, gaps, Clock(), failures.append)
    listener.state, listener._is_subscribed = "recording", True
    listener.change(("A", "B"))
    assert gaps.all() == ()
    listener._open_gap(5, "lost")
    listener.change(("A", "B", "C"))
    assert [(gap.symbols, gap.end_ns) for gap in gaps.all()] == [(("A", "B"), None), (("C",), None)]
