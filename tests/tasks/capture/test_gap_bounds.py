"""A gap begins no later than the first lost trade, however it is lost."""

import errno
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from faults import Connection, Drop, Reset, Send, Stall, StartServer, Subscribed
from recording import FIN, RESET, Answered, Fast, Stamp, StartSession, ask, sealed_rows, trades, wait_for

from tasks.capture.clock import Clock
from tasks.capture.gaps import GapBook
from tasks.capture.journal import Heading, Journal, Receipt
from tasks.capture.keeper import JournalKeeper
from tasks.capture.listener import Backoff
from tasks.capture.recovery import KILLED, close_killed
from tasks.capture.request import CaptureRequest, save_request
from tasks.capture.supervise import Recorder, change_symbols, start_or_attach
from tasks.records.ledger import Gap
from tasks.records.manifest import Seal, read
from tasks.records.names import BatchName
from tasks.records.status import Status, boot_id, write_status
from tasks.records.trade import NS_PER_S, Trade
from tasks.storage.store import Store

SESSION = "20260102T150405Z-00c0ffee"
BIG = "x" * 2048


@pytest.fixture
def recorder(store: Store) -> Iterator[Callable[..., Recorder]]:
    """Start recorders as processes; kill what a failing test leaves behind."""
    started: list[Recorder] = []

    def start(url: str, symbols: str, lanes: int = 1) -> Recorder:
        request = ask(store.root, url, symbols, lanes=lanes, reconnect_within_s=0.01)
        started.append(start_or_attach(request, "a-very-secret-key"))
        return started[-1]

    yield start
    for each in started:
        if each.is_alive:
            kill(each)


def kill(recorder: Recorder) -> None:
    """Kill -9, and wait until the process is gone."""
    os.kill(wait_for(recorder.status).pid, signal.SIGKILL)
    wait_for(lambda: not recorder.is_alive)


def status_when(recorder: Recorder, holds: Callable[[Status], object]) -> Status:
    status = wait_for(lambda: (status := recorder.status()) and holds(status) and status)
    assert isinstance(status, Status)
    return status


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_gap_begins_before_the_first_trade_that_the_disk_refused(
    store: Store, fault_server: StartServer, recorder: Callable[..., Recorder], lanes: int
) -> None:
    """The lane whose write failed determines the start of the gap, although another lane has written later trades."""
    big = [replace(trade, conditions=(BIG,)) for trade in trades(40, symbols="A")]
    sent_ns, fails = list[int](), threading.Event()
    server = fault_server(
        [Subscribed("A", "B"), Send([*big, *trades(1, symbols="B")]), Answered(), Stall(fails), Stamp(sent_ns),
         Send([*trades(1, 100, symbols="B"), *big])],
    )  # fmt: skip
    running = recorder(server.url, "AB", lanes)
    status = status_when(running, lambda status: status.trades == 41)
    size = max(path.stat().st_size for path in store.spool.rglob("*.csv.open"))
    resource.prlimit(status.pid, resource.RLIMIT_FSIZE, (size + 10, size + 10))
    fails.set()
    list(running.sealed())
    record = running.record()
    assert record.outcome == "failed"
    assert ".csv.open: File too large" in (record.error or "")
    (gap,) = record.gaps
    before = [row for row in sealed_rows(store, record.session) if row.ts_recv_ns < sent_ns[0]]
    assert len(before) == 41
    assert before[-1].ts_recv_ns <= gap.start_ns <= sent_ns[0]
    assert (gap.symbols, gap.end_ns) == (("A", "B"), record.deadline_ns)


class Held:
    """A clock that can block a lane's thread when it reads the time."""

    def __init__(self) -> None:
        self._free = {f"lane-{lane}": threading.Event() for lane in range(2)}
        self._waits = {name: threading.Event() for name in self._free}
        for lane in range(2):
            self.release(lane)

    def hold(self, lane: int) -> None:
        """Return once that lane is blocked."""
        self._free[f"lane-{lane}"].clear()
        self._waits[f"lane-{lane}"].clear()
        assert self._waits[f"lane-{lane}"].wait(20)

    def release(self, lane: int) -> None:
        self._free[f"lane-{lane}"].set()

    def clock(self) -> Clock:
        real = Clock()

        def monotonic_ns() -> int:
            name = threading.current_thread().name
            if name in self._free and not self._free[name].is_set():
                self._waits[name].set()
                self._free[name].wait(20)
            return real.monotonic_ns()

        return Clock(monotonic_ns=monotonic_ns)


def test_what_is_known_to_be_journalled_is_what_the_earliest_lane_has_written(
    fault_server: StartServer, session: StartSession
) -> None:
    """Of two lanes with trades waiting, the one farther behind determines the time up to which all is journaled."""
    held, sent_ns, events = Held(), list[int](), [threading.Event() for _ in range(3)]
    server = fault_server(
        [Subscribed("A", "B"), Stamp(sent_ns), Send(trades(2, 0, "AB")), Stall(events[0]), Stamp(sent_ns),
         Send(trades(2, 2, "AB")), Stall(events[1]), Stamp(sent_ns), Send(trades(2, 4, "AB")), Stall(events[2])]
    )  # fmt: skip
    recording = session(server.url, ("A", "B"), lanes=2, clock=held.clock())
    try:
        recording.when(lambda status: status.trades == 2)
        held.hold(0)
        events[0].set()
        status = recording.when(lambda status: status.trades == 3 and status.queue_bytes and status)
        assert sent_ns[0] <= status.through_ns <= sent_ns[1]
        held.hold(1)
        events[1].set()
        status = recording.when(lambda late: late.queue_bytes > status.queue_bytes and late.frames == 3 and late)
        assert (status.trades, len(sent_ns)) == (3, 3)
        assert sent_ns[0] <= status.through_ns <= sent_ns[1]
    finally:
        held.release(0)
        held.release(1)
        events[2].set()
    recording.when(lambda status: status.trades == 6 and status.through_ns >= sent_ns[2])


def test_a_lane_that_has_had_nothing_holds_nothing_back(fault_server: StartServer, session: StartSession) -> None:
    """A lane for which nothing waits does not hold back the time up to which all is journaled."""
    sent_ns, over = list[int](), threading.Event()
    server = fault_server([Subscribed("A", "B"), Stamp(sent_ns), Send(trades(5)), Answered(), Stall(over)])
    recording = session(server.url, ("A", "B"), lanes=2)
    recording.when(lambda status: status.trades == 5 and status.through_ns >= sent_ns[0])
    over.set()


@pytest.fixture
def killed(store: Store) -> CaptureRequest:
    """A session of two lanes whose recorder is gone and left no status."""
    now_ns = time.time_ns()
    request = CaptureRequest(
        session=SESSION, data_dir=store.root, feed_url="ws://127.0.0.1:1", symbols=("A", "B"), started_ns=now_ns,
        deadline_ns=now_ns + 60 * NS_PER_S, lanes=2,
    )  # fmt: skip
    save_request(request)
    (store.spool / SESSION).mkdir()
    return request


def journal_of(store: Store, name: BatchName, opened_ns: int) -> Journal:
    heading = Heading(
        batch=str(name), feed="finnhub", date="2026-01-02", symbols=("A", "B"), lanes=2, opened_ns=opened_ns, before={}
    )
    return Journal(store.spool / name.session, name, heading)


def write(journal: Journal, ts_recv_ns: int, seq: int = 1) -> None:
    """Write one trade."""
    line = b"1,%d,%d,1575526691134000000,A,1.10,3,1\n" % (seq, ts_recv_ns)
    journal.append([
        Receipt(
            connection=1, ts_recv_ns=ts_recv_ns, through_ns=ts_recv_ns, block=line, symbols=["A"],
            first_seq=seq, last_seq=seq, received=1, trade=1,
        )
    ])  # fmt: skip


def left(store: Store, request: CaptureRequest, lane: int, after_s: int) -> int:
    """Leave a killed lane's journal with one trade so many seconds after the session's start; return when (UTC ns)."""
    at_ns = request.started_ns + after_s * NS_PER_S
    journal = journal_of(store, BatchName(SESSION, lane, 0), request.started_ns + 1)
    write(journal, at_ns)
    journal.abandon()
    return at_ns


def killed_status(request: CaptureRequest, through_ns: int) -> Status:
    return Status(
        session=SESSION, pid=1, state="recording", started_ns=request.started_ns, deadline_ns=request.deadline_ns,
        updated_ns=through_ns, listening_ns=request.started_ns, through_ns=through_ns, durable_ns=0, boot=boot_id(),
        connection=1, frames=1, trades=1, queue_bytes=0, queue_limit_bytes=1, blocked_s=0.0, batches_sealed=0, gaps=0,
        open_gaps=(), refused_symbols=(), notice=None, error=None, per_symbol={"A": 1, "B": 0}, symbols=("A", "B"),
    )  # fmt: skip


def test_after_a_kill_the_lane_that_had_written_least_says_where_the_gap_begins(
    store: Store, killed: CaptureRequest
) -> None:
    """Of two lanes that had written something, trades of the one behind may be lost first."""
    left(store, killed, 0, after_s=9)
    behind_ns = left(store, killed, 1, after_s=5)
    record = close_killed(store, SESSION, time.time_ns())
    assert record.gaps == (
        Gap(symbols=("A", "B"), start_ns=behind_ns, end_ns=killed.deadline_ns, reason=KILLED),
    )  # fmt: skip


@pytest.mark.parametrize("said_s", [None, 3])
def test_after_a_kill_a_lane_that_had_written_nothing_counts(
    store: Store, killed: CaptureRequest, said_s: int | None
) -> None:
    """A lane without writes may have lost trades since the start, or since the last status that had all written."""
    left(store, killed, 0, after_s=9)
    if said_s is not None:
        write_status(killed.folder, killed_status(killed, killed.started_ns + said_s * NS_PER_S))
    (gap,) = close_killed(store, SESSION, time.time_ns()).gaps
    assert (gap.start_ns, gap.end_ns) == (killed.started_ns + (said_s or 0) * NS_PER_S, killed.deadline_ns)


def test_an_outage_and_a_kill_after_the_reconnect_are_two_gaps(
    store: Store, fault_server: StartServer, recorder: Callable[..., Recorder]
) -> None:
    """The outage's gap ends with the new connection, and the kill's gap begins after what that one brought."""
    over = threading.Event()
    server = fault_server(
        [Subscribed("A"), Send(trades(3)), Answered(), Drop()],
        [Subscribed("A"), Send(trades(3, 3)), Answered(), Stall(over)],
    )
    running = recorder(server.url, "A")
    status_when(running, lambda status: status.trades == 6)
    kill(running)
    over.set()
    record = close_killed(store, running.request.session, time.time_ns())
    rows = sealed_rows(store, record.session)
    outage, loss = record.gaps
    assert (outage.reason, loss.reason) == (FIN, KILLED)
    assert outage.end_ns is not None
    assert rows[2].ts_recv_ns <= outage.start_ns < outage.end_ns <= rows[3].ts_recv_ns
    assert (rows[5].ts_recv_ns <= loss.start_ns, loss.end_ns) == (True, record.deadline_ns)
    (seal,) = [read(store.sealed / name.seal, Seal) for name in store.sealed_batches()]
    assert [(gap.reason, gap.end_ns is None) for gap in seal.gaps] == [(FIN, False), (KILLED, True)]


def test_a_kill_during_an_outage_is_the_outages_gap(
    store: Store, fault_server: StartServer, recorder: Callable[..., Recorder]
) -> None:
    """During an outage a kill adds nothing: the outage's gap lasts until the session's deadline."""
    lost = threading.Event()
    server = fault_server([Subscribed("A"), Send(trades(3)), Answered(), Stall(lost), Drop()])
    running = recorder(server.url, "A")
    status_when(running, lambda status: status.trades == 3)
    server.refuse()
    lost.set()
    status_when(running, lambda status: status.open_gaps)
    kill(running)
    (gap,) = close_killed(store, running.request.session, time.time_ns()).gaps
    assert (gap.reason, gap.end_ns) == (FIN, running.request.deadline_ns)


@dataclass(frozen=True)
class Sealing:
    """A gap book, and a keeper that seals a journal that was open from 100 to 200."""

    store: Store
    book: GapBook

    def seal(self, now_ns: int = 200) -> Seal:
        failures = list[BaseException]()
        keeper = JournalKeeper(
            self.store, lambda: ("A", "B"), self.book, Clock(wall_ns=lambda: now_ns), failures.append, lambda: 0
        )
        journal = journal_of(self.store, BatchName(SESSION, 0, 0), 100)
        keeper.watch(journal)
        write(journal, 150)
        keeper.start()
        keeper.seal(journal)
        keeper.finish()
        keeper.join(20)
        assert failures == []
        return read(self.store.sealed / BatchName(SESSION, 0, 0).seal, Seal)


@pytest.fixture
def sealing(store: Store) -> Sealing:
    (store.spool / SESSION).mkdir()
    return Sealing(store, GapBook(store.root / "gaps.log"))


@pytest.mark.parametrize(
    ("start_ns", "end_ns", "touches"),
    [
        (10, 99, False),
        (10, 100, True),
        (10, 500, True),
        (10, None, True),
        (120, 130, True),
        (120, None, True),
        (200, None, True),
        (201, None, False),
    ],
)
def test_a_seal_carries_the_gaps_that_touch_its_batch(
    sealing: Sealing, start_ns: int, end_ns: int | None, touches: bool
) -> None:
    """A gap entirely before or after the batch is not in its seal; one that lasts beyond it is."""
    sealing.book.open(("A",), start_ns, "lost")
    if end_ns is not None:
        sealing.book.close(("A",), end_ns)
    gap = Gap(symbols=("A",), start_ns=start_ns, end_ns=end_ns, reason="lost")
    assert sealing.seal().gaps == ((gap,) if touches else ())


def test_a_seal_of_a_clock_that_was_put_back_ends_no_earlier_than_it_began(sealing: Sealing) -> None:
    """If the clock was put back, the seal still has the gap within which the batch was opened."""
    sealing.book.open(("A",), 100, "lost")
    seal = sealing.seal(now_ns=50)
    assert (seal.opened_ns, seal.sealed_ns) == (100, 100)
    assert [gap.start_ns for gap in seal.gaps] == [100]


def test_what_a_recovery_seals_carries_the_gaps_that_touch_it(store: Store, killed: CaptureRequest) -> None:
    """A recovered seal has an outage during the batch and the gap of the kill, but not an earlier outage."""
    before, start_ns = GapBook(killed.folder / "gaps.log"), killed.started_ns
    before.open(("A",), start_ns - 20, "earlier")
    before.close(("A",), start_ns - 10)
    before.open(("B",), start_ns + 2 * NS_PER_S, "outage")
    before.close(("B",), start_ns + 3 * NS_PER_S)
    _, behind_ns = (left(store, killed, lane, after_s) for lane, after_s in enumerate((7, 5)))
    close_killed(store, SESSION, start_ns + 10 * NS_PER_S)
    for lane in range(2):
        seal = read(store.sealed / BatchName(SESSION, lane, 0).seal, Seal)
        assert [(gap.reason, gap.start_ns, gap.end_ns) for gap in seal.gaps] == [
            ("outage", start_ns + 2 * NS_PER_S, start_ns + 3 * NS_PER_S), (KILLED, behind_ns, None),
        ]  # fmt: skip


def test_the_gap_of_a_removed_symbol_ends_with_its_removal(fault_server: StartServer, session: StartSession) -> None:
    """If one of two symbols is removed during an outage, its gap ends there and the other's goes on."""
    lost = threading.Event()
    server = fault_server([Subscribed("A", "B"), Send(trades(2, 0, "AB")), Answered(), Stall(lost), Drop()])
    recording = session(server.url, ("A", "B"))
    recording.when(lambda status: status.trades == 2)
    server.refuse()
    lost.set()
    recording.when(lambda status: status.open_gaps)
    change_symbols(recording.request.folder, lambda now: tuple(each for each in now if each != "B"))
    recording.when(lambda status: [gap.symbols for gap in status.open_gaps] == [("A",)])
    record = recording.end()
    (change,) = record.changes
    assert {gap.symbols: gap.end_ns for gap in record.gaps} == {("B",): change.at_ns, ("A",): record.ended_ns}
    assert change.at_ns < record.ended_ns
    assert len({gap.start_ns for gap in record.gaps}) == 1


@dataclass(frozen=True, slots=True)
class Busy:
    """A step: so many trades of the symbol, thirty a second, each read before the next is sent."""

    count: int
    symbol: str

    def run(self, connection: Connection) -> None:
        for number in range(self.count):
            at_ns = (1_700_000_000 + number) * NS_PER_S
            Send([Trade(at_ns, self.symbol, "1.5", "1")]).run(connection)
            time.sleep(0.03)  # The rhythm that is to be learnt.


@dataclass(frozen=True, slots=True)
class OnlyPings:
    """A step: send only pings for as long as the connection lives, each answered."""

    def run(self, connection: Connection) -> None:
        number = 0
        while not connection.gone.wait(0.05):
            number += 1
            Answered(b"%d" % number).run(connection)


def test_the_gap_of_a_silent_feed_begins_at_its_last_trade_though_pings_are_answered(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """Answered pings do not count: the gap begins before the first of them, not at the last."""
    over, symbol, clock = threading.Event(), "BINANCE:A", Fast().clock()
    server = fault_server([Subscribed(symbol), Busy(60, symbol), OnlyPings()], [Subscribed(symbol), Stall(over)])
    now_ns = clock.wall_ns()
    recording = session(
        server.url, (symbol,), clock=clock, started_ns=now_ns, deadline_ns=now_ns + 3600 * NS_PER_S, ping_every_s=100.0
    )
    server.connection(1).wait_heard("subscribe", symbol)
    over.set()
    record = recording.end()
    last_ns = sealed_rows(store, record.session)[-1].ts_recv_ns
    (gap,) = record.gaps
    assert "with pings answered" in gap.reason
    assert sum(heard.kind == "pong" for heard in server.connection(0).heard) >= 5
    assert gap.end_ns is not None
    assert last_ns <= gap.start_ns < gap.end_ns - 15 * NS_PER_S


def test_the_book_of_gaps_is_on_the_disk_before_a_call_returns(tmp_path: Path) -> None:
    """A gap book that is read at any moment, as after a kill, has every opened gap and every end."""
    path = tmp_path / "gaps.log"
    book = GapBook(path)
    book.open("AB", 1, "lost")
    assert GapBook(path).all() == book.all() == (Gap(symbols=("A", "B"), start_ns=1, end_ns=None, reason="lost"),)
    book.close("A", 5)
    assert GapBook(path).all() == book.all()
    assert [gap.end_ns for gap in book.all()] == [5, None]
    book.finish(7)
    assert [gap.end_ns for gap in GapBook(path).all()] == [5, 7]


def test_a_gap_that_a_clock_put_back_would_end_before_it_began_has_no_length(tmp_path: Path) -> None:
    """If the wall clock is put back during an outage, the gap ends where it began, not before."""
    book = GapBook(tmp_path / "gaps.log")
    book.open("A", 10, "lost")
    book.close("A", 5)
    assert [(gap.start_ns, gap.end_ns) for gap in book.all()] == [(10, 10)]


def test_what_a_killed_recorder_had_not_written_before_a_loss_is_in_a_gap(
    store: Store, fault_server: StartServer, session: StartSession, disk_goes: threading.Event
) -> None:
    """The gap of the loss began when the connection was lost; what waited for the disk then is in a gap too."""
    before: list[int] = []
    server = fault_server([Subscribed("A"), Stamp(before), Send(trades(5)), Answered(), Reset()])
    never = Backoff(first_s=60.0, most_s=60.0, uniform=lambda _least, most: most)
    recording = session(server.url, root=store.root, backoff=never)
    recording.when(lambda status: status.state == "reconnecting" and status.open_gaps)
    killed = Store(shutil.copytree(store.root, store.root.with_name("killed")))
    disk_goes.set()
    record = close_killed(killed, recording.request.session, time.time_ns())
    assert sealed_rows(killed, record.session) == []
    assert min(gap.start_ns for gap in record.gaps) <= before[0]
    assert [gap.reason for gap in sorted(record.gaps, key=lambda gap: gap.start_ns)] == [KILLED, RESET]


def test_what_a_failing_disk_had_not_taken_before_a_loss_is_in_a_gap(
    store: Store, fault_server: StartServer, session: StartSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure's gap covers what was received before the gap of the loss began, as for a killed recorder."""
    before: list[int] = []
    lost, real = threading.Event(), os.write

    def write(descriptor: int, content: bytes) -> int:
        if threading.current_thread().name.startswith("lane-"):
            lost.wait(20)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, content)

    monkeypatch.setattr(os, "write", write)
    server = fault_server([Subscribed("A"), Stamp(before), Send(trades(5)), Answered(), Reset()])
    never = Backoff(first_s=60.0, most_s=60.0, uniform=lambda _least, most: most)
    recording = session(server.url, root=store.root, backoff=never)
    recording.when(lambda status: status.state == "reconnecting" and status.open_gaps)
    lost.set()
    record = recording.record()
    assert record.outcome == "failed"
    assert sealed_rows(store, record.session) == []
    assert min(gap.start_ns for gap in record.gaps) <= before[0]
