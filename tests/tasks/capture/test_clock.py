"""A wall clock that jumps causes no disorder in durations, receive times, or trading days."""

import threading
import time
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from faults import Connection, Drop, Send, Stall, StartServer, Step, Subscribed
from recording import Answered, Row, StartSession, assert_all_there, sealed_rows, trades

from tasks.capture.clock import Clock
from tasks.capture.routes import lanes_for
from tasks.records.ledger import SessionRecord
from tasks.records.manifest import Seal, read
from tasks.records.trade import NS_PER_MS, NS_PER_S
from tasks.storage.store import Store
from tasks.zones import date_in

HOUR_NS = 3600 * NS_PER_S
NEW_YORK = ZoneInfo("America/New_York")


class SteppedClock:
    """A wall clock that the test sets, over the machine's own monotonic clock."""

    def __init__(self, at: str | None = None) -> None:
        self._ahead_ns = 0
        if at is not None:
            self.set(new_york_ns(at))

    def wall_ns(self) -> int:
        return time.time_ns() + self._ahead_ns

    def step(self, by_ns: int) -> None:
        self._ahead_ns += by_ns

    def set(self, to_ns: int) -> None:
        self._ahead_ns = to_ns - time.time_ns()

    @property
    def clock(self) -> Clock:
        return Clock(wall_ns=self.wall_ns)


def new_york_ns(at: str) -> int:
    """Return UTC ns of a local time such as `2026-11-01 01:30`; ` again` means its second occurrence."""
    local = datetime.fromisoformat(at.removesuffix(" again")).replace(tzinfo=NEW_YORK, fold=int(at.endswith("again")))
    return int(local.timestamp()) * NS_PER_S


@dataclass(frozen=True, slots=True)
class Turn:
    """A step of a script: once the client has read what was sent before, set its wall clock."""

    clock: SteppedClock
    by_ns: int = 0
    at: str | None = None

    def run(self, connection: Connection) -> None:
        Answered(str(time.monotonic_ns()).encode()).run(connection)
        if self.at is None:
            self.clock.step(self.by_ns)
        else:
            self.clock.set(new_york_ns(self.at))


def seals(store: Store) -> list[Seal]:
    return [read(store.sealed / name.seal, Seal) for name in store.sealed_batches()]


def assert_times_make_sense(store: Store, record: SessionRecord, rows: list[Row]) -> None:
    """Assert that no gap, batch, or session ends before its start or before its content."""
    assert all(gap.end_ns is not None and gap.start_ns <= gap.end_ns for gap in record.gaps)
    assert record.started_ns <= record.ended_ns
    assert max(row.ts_recv_ns for row in rows) <= record.ended_ns
    for seal in seals(store):
        assert seal.opened_ns <= seal.sealed_ns
        for held in seal.connections:
            assert held.first_recv_ns <= held.last_recv_ns
            assert {date_in("America/New_York", ns) for ns in (held.first_recv_ns, held.last_recv_ns)} == {seal.date}


@pytest.mark.parametrize("hours", [(1, -1), (-1, 1), (-1, -1), (-30, 55)])
def test_steps_of_the_wall_clock_disorder_nothing(
    store: Store, fault_server: StartServer, session: StartSession, hours: tuple[int, int]
) -> None:
    """Clock steps within a connection and between two cost no row, and no receive time runs backwards."""
    clock = SteppedClock()
    first, second = (each * HOUR_NS for each in hours)
    script: list[Step] = [Send(trades(3)), Turn(clock, first), Send(trades(3, 3)), Turn(clock, second)]
    server = fault_server(
        [Subscribed("A"), *script, Send(trades(3, 6)), Turn(clock, first), Drop()],
        [Subscribed("A"), Send(trades(3, 9)), Turn(clock, second), Send(trades(3, 12)), Turn(clock, 0)],
        [Subscribed("A")],
    )
    recording = session(server.url, clock=clock.clock)
    recording.when(lambda status: status.trades == 15)
    record = recording.end()
    rows = assert_all_there(store, record, server)
    assert_times_make_sense(store, record, rows)
    assert [(gap.symbols, gap.reason) for gap in record.gaps] == [
        (("A",), "the feed ended the connection without a close frame")
    ]
    assert (record.outcome, record.connections) == ("stopped", 2)


@pytest.mark.parametrize("hours", [-1, 1])
def test_the_deadline_is_a_duration(store: Store, fault_server: StartServer, session: StartSession, hours: int) -> None:
    """A session of a second lasts a second, whatever the wall clock does meanwhile."""
    clock = SteppedClock()
    server = fault_server([Subscribed("A"), Send(trades(2)), Turn(clock, hours * HOUR_NS), Send(trades(2, 2))])
    begun_ns = time.monotonic_ns()
    now_ns = time.time_ns()
    recording = session(server.url, started_ns=now_ns, deadline_ns=now_ns + NS_PER_S, clock=clock.clock)
    record = recording.record()
    lasted_ns = time.monotonic_ns() - begun_ns
    assert record.outcome == "complete"
    assert 950 * NS_PER_MS <= lasted_ns <= 10 * NS_PER_S
    assert_times_make_sense(store, record, assert_all_there(store, record, server))
    assert record.gaps == ()


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_batch_ages_by_the_monotonic_clock(
    store: Store, fault_server: StartServer, session: StartSession, hours: int
) -> None:
    """A clock step of an hour does not seal a batch limited to a minute, nor delay one limited to 50 ms."""
    for seconds, batches in ((60.0, 1), (0.05, 2)):
        clock, aged = SteppedClock("2026-06-10 12:30"), threading.Event()
        server = fault_server(
            [Subscribed("A"), Send(trades(2)), Turn(clock, hours * HOUR_NS), Send(trades(2, 2)), Stall(aged),
             Send(trades(2, 4)), Turn(clock)],
        )  # fmt: skip
        recording = session(
            server.url, root=store.root / f"{seconds}", batch_for_ns=int(seconds * NS_PER_S), clock=clock.clock,
            started_ns=clock.wall_ns(), deadline_ns=clock.wall_ns() + 60 * NS_PER_S,
        )  # fmt: skip
        recording.when(lambda status, batches=batches: status.trades == 4 and status.batches_sealed >= batches - 1)
        aged.set()
        recording.when(lambda status: status.trades == 6)
        recording.end()
        assert (len(Store(store.root / f"{seconds}").sealed_batches()) > 1) == (batches > 1)


DAYS = {
    "an ordinary midnight": ["2026-06-10 23:59:50", "2026-06-11 00:00:00"],
    "a day of 23 hours": ["2026-03-07 23:59:50", "2026-03-08 00:30", "2026-03-08 03:30", "2026-03-08 23:59:50",
                          "2026-03-09 00:00"],
    "a day of 25 hours": ["2026-10-31 23:59:50", "2026-11-01 00:30", "2026-11-01 01:30", "2026-11-01 01:30 again",
                          "2026-11-01 23:59:50", "2026-11-02 00:00"],
    "the turn of a year": ["2026-12-31 23:59:50", "2027-01-01 00:00"],
}  # fmt: skip


@pytest.mark.parametrize(("day", "lanes"), [*((day, 1) for day in DAYS), ("a day of 25 hours", 3)])
def test_a_batch_holds_one_day_of_the_exchange(
    store: Store, fault_server: StartServer, session: StartSession, day: str, lanes: int
) -> None:
    """A new batch with the new date begins at midnight in New York, on days of 23 and 25 hours too."""
    times = DAYS[day]
    clock = SteppedClock(times[0])
    clock.step(-NS_PER_S)
    steps: list[Step] = []
    for number, at in enumerate(times):
        steps += [Turn(clock, at=at), Send(trades(2, 2 * number, "AB"))]
    server = fault_server([Subscribed("A", "B"), *steps, Turn(clock)])
    recording = session(
        server.url, ("A", "B"), lanes=lanes, clock=clock.clock, started_ns=clock.wall_ns(),
        deadline_ns=clock.wall_ns() + 60 * NS_PER_S,
    )  # fmt: skip
    recording.when(lambda status: status.trades == 2 * len(times))
    record = recording.end()
    rows = assert_all_there(store, record, server)
    assert_times_make_sense(store, record, rows)
    assert [date_in("America/New_York", row.ts_recv_ns) for row in rows[::2]] == [at[:10] for at in times]
    assert {seal.date for seal in seals(store)} == {at[:10] for at in times}


def test_a_clock_put_back_over_midnight_begins_a_batch_of_the_day_before(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """If the clock was put back during a reconnect, the rows go into a batch of the day that it now shows."""
    clock = SteppedClock("2026-06-11 00:10")
    server = fault_server(
        [Subscribed("A"), Send(trades(2)), Turn(clock, -HOUR_NS), Drop()],
        [Subscribed("A"), Send(trades(2, 2)), Turn(clock)],
    )
    recording = session(
        server.url, clock=clock.clock, started_ns=clock.wall_ns() - 2 * HOUR_NS,
        deadline_ns=clock.wall_ns() + 60 * NS_PER_S,
    )  # fmt: skip
    recording.when(lambda status: status.trades == 4)
    record = recording.end()
    assert_times_make_sense(store, record, assert_all_there(store, record, server))
    assert [seal.date for seal in seals(store)] == ["2026-06-11", "2026-06-10"]
    assert len(sealed_rows(store, record.session)) == 4


def test_symbols_that_never_close_have_days_of_utc(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """Stocks and crypto of one session are in separate batches: New York's date, and the next one of UTC."""
    clock, symbols = SteppedClock("2026-06-10 19:59:50"), ("A", "BINANCE:B")
    server = fault_server(
        [Subscribed(*symbols), Send(trades(4, 0, symbols)), Turn(clock, 20 * NS_PER_S), Send(trades(4, 4, symbols)),
         Turn(clock)],
    )  # fmt: skip
    recording = session(
        server.url, symbols, lanes=lanes_for("finnhub", symbols, 1), clock=clock.clock, started_ns=clock.wall_ns(),
        deadline_ns=clock.wall_ns() + 60 * NS_PER_S,
    )  # fmt: skip
    recording.when(lambda status: status.trades == 8)
    record = recording.end()
    assert_all_there(store, record, server)
    assert sorted((seal.date, *seal.per_symbol.items()) for seal in seals(store)) == [
        ("2026-06-10", ("A", 4)), ("2026-06-10", ("BINANCE:B", 2)), ("2026-06-11", ("BINANCE:B", 2)),
    ]  # fmt: skip


class SleepingClock:
    """The clocks of a machine that can be suspended: all but Python's own monotonic one include that time."""

    def __init__(self) -> None:
        self.slept_ns = 0

    @property
    def clock(self) -> Clock:
        return Clock(
            wall_ns=lambda: time.time_ns() + self.slept_ns,
            monotonic_ns=lambda: time.monotonic_ns() + self.slept_ns,
            asleep_ns=lambda: self.slept_ns,
        )


def test_a_suspended_machine_leaves_a_gap_and_a_new_connection(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """The time of the suspension is a gap of every symbol, and a new connection follows."""
    machine, woken = SleepingClock(), threading.Event()
    server = fault_server(
        [Subscribed("A"), Send(trades(3)), Stall(woken)], [Subscribed("A"), Send(trades(3, 3)), Answered()]
    )
    recording = session(server.url, clock=machine.clock, ping_every_s=600.0, deadline_ns=time.time_ns() + HOUR_NS)
    recording.when(lambda status: status.trades == 3)
    machine.slept_ns = 600 * NS_PER_S
    recording.when(lambda status: status.trades == 6)
    woken.set()
    record = recording.end()
    (gap,) = record.gaps
    assert (gap.symbols, gap.reason) == (("A",), "the machine was suspended for 600 s")
    assert gap.end_ns is not None
    assert 600 * NS_PER_S <= gap.end_ns - gap.start_ns < 660 * NS_PER_S
    assert record.connections == 2


def test_a_machine_that_slept_past_its_deadline_records_no_longer(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """If the deadline passes during a suspension, the session ends as soon as the machine wakes."""
    machine = SleepingClock()
    server = fault_server([Subscribed("A"), Send(trades(3))])
    recording = session(server.url, clock=machine.clock)
    recording.when(lambda status: status.trades == 3)
    machine.slept_ns = 61 * NS_PER_S
    assert recording.record().outcome == "complete"


def test_the_clock_of_durations_counts_suspended_time() -> None:
    """By default durations come from the clock that includes suspension."""
    clock = Clock()
    assert abs(clock.monotonic_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) < NS_PER_S
    asleep_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    assert abs(clock.asleep_ns() - asleep_ns) < NS_PER_S
