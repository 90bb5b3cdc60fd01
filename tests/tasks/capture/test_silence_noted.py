"""When a symbol's silence is noted, from when to when, and how long it takes to be unusual."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults import Connection, FaultServer, Send, Stall, Subscribed
from recording import Fast, Recording, sealed_rows

from tasks.capture.clock import Clock
from tasks.capture.gaps import GapBook
from tasks.capture.listener import Listener
from tasks.capture.request import CaptureRequest
from tasks.capture.rhythm import Rhythm
from tasks.capture.routes import Received
from tasks.capture.silence import SilenceWatch
from tasks.feeds.finnhub import Finnhub
from tasks.records.trade import NS_PER_S, Trade
from tasks.storage.store import Store

# 2026-11-24 15:00 UTC, within the hours of New York.
START_NS = 1_795_532_400 * NS_PER_S
ALWAYS = ((START_NS, START_NS + 86_400 * NS_PER_S),)


class Watched:
    """A watch over a listener that is not started, with a clock that the test moves."""

    def __init__(self, folder: Path, hours: tuple[tuple[int, int], ...]) -> None:
        self.seconds = 0
        self.counts: dict[str, int] = {}
        request = CaptureRequest(
            session="20261124T150000Z-00c0ffee", data_dir=folder, feed_url="ws://127.0.0.1:1", symbols=("A",),
            started_ns=START_NS, deadline_ns=START_NS + 86_400 * NS_PER_S, market_hours=hours,
        )  # fmt: skip
        clock = Clock(lambda: self.now_ns, lambda: self.now_ns - START_NS + NS_PER_S, lambda: 0)
        took, failed = list[Received](), list[BaseException]()
        self.listener = Listener(request, "key", took.extend, GapBook(folder / "gaps.json"), clock, failed.append)
        self.listener.state, self.listener.connection = "recording", 1
        self._watch = SilenceWatch(self.listener, clock, request, Finnhub())

    @property
    def now_ns(self) -> int:
        return START_NS + self.seconds * NS_PER_S

    def go(self, seconds: int, **rates: int) -> None:
        """Let that time pass, with so many trades of each symbol a second, and look each second."""
        for _ in range(seconds):
            self.seconds += 1
            for symbol, rate in rates.items():
                name = symbol.replace("_", ":")
                self.counts[name] = self.counts.get(name, 0) + rate
            self._watch.look(dict(self.counts))

    def silences(self, ended_s: int | None = None) -> list[tuple[tuple[str, ...], int, int]]:
        """Return symbols, start, and end of every silence so far, in seconds; open ones end at `ended_s`."""
        ended_ns = START_NS + (self.seconds if ended_s is None else ended_s) * NS_PER_S
        return [
            (gap.symbols, (gap.start_ns - START_NS) // NS_PER_S, ((gap.end_ns or 0) - START_NS) // NS_PER_S)
            for gap in self._watch.ended(ended_ns)
        ]


@pytest.fixture
def watched(tmp_path: Path) -> Callable[..., Watched]:
    """Start a watch in a folder of its own."""
    folder = tmp_path / "session"
    folder.mkdir()
    return lambda hours=ALWAYS: Watched(folder, hours)


def test_a_silence_lasts_from_the_symbols_last_trade_to_its_next(watched: Callable[..., Watched]) -> None:
    """A symbol that is silent alone is noted from its last trade until its next."""
    watch = watched()
    watch.go(100, A=10, B=10)
    watch.go(59, A=10)
    assert watch.silences() == []
    watch.go(20, A=10)
    assert watch.silences() == [(("B",), 100, 179)]
    assert watch.silences(ended_s=500) == [(("B",), 100, 500)]
    watch.go(1, A=10, B=1)
    watch.go(30, A=10, B=10)
    assert watch.silences(ended_s=500) == [(("B",), 100, 180)]


def test_each_silence_of_a_symbol_is_noted_by_itself(watched: Callable[..., Watched]) -> None:
    """The next silence does not move the end of the previous one, and another symbol's trade ends none."""
    watch = watched()
    watch.go(100, A=10, B=10, C=10)
    watch.go(100, A=10)
    watch.go(100, A=10, B=10)
    watch.go(100, A=10)
    assert watch.silences(ended_s=500) == [(("B",), 100, 201), (("C",), 100, 500), (("B",), 300, 500)]


def test_outside_of_market_hours_a_stocks_silence_is_not_noted(watched: Callable[..., Watched]) -> None:
    """After the close stocks may be silent; a symbol that never closes may not, nor a stock during trading hours."""
    watch = watched(hours=((START_NS, START_NS + 150 * NS_PER_S),))
    watch.go(100, A=10, B=10, BINANCE_X=10, BINANCE_Y=10)
    watch.go(70, B=10, BINANCE_X=10)
    silent = [symbols for symbols, _, _ in watch.silences()]
    assert silent == [("BINANCE:Y",)]
    watch.go(400, BINANCE_X=10)
    assert [symbols for symbols, _, _ in watch.silences()] == [("BINANCE:Y",)]


def test_within_market_hours_a_stocks_silence_is_noted(watched: Callable[..., Watched]) -> None:
    """The same stocks, while their market is open, are noted."""
    watch = watched(hours=((START_NS, START_NS + 1_000 * NS_PER_S),))
    watch.go(100, A=10, B=10)
    watch.go(70, B=10)
    assert watch.silences() == [(("A",), 100, 170)]


@pytest.mark.parametrize("how", ["another connection", "no connection"])
def test_what_could_not_be_heard_is_no_silence(watched: Callable[..., Watched], how: str) -> None:
    """Time before a connection does not count; time on the new connection does."""
    watch = watched()
    watch.go(100, A=10, B=10)
    watch.go(50, A=10)
    if how == "no connection":
        watch.listener.state = "reconnecting"
        watch.go(300)
        watch.listener.state = "recording"
    watch.listener.connection += 1
    watch.go(59, A=10)
    assert watch.silences() == []
    watch.go(10, A=10)
    assert [symbols for symbols, _, _ in watch.silences()] == [("B",)]


def test_a_feed_that_stays_silent_on_a_new_connection_is_noted_once_until_it_speaks(
    watched: Callable[..., Watched],
) -> None:
    """One note for all symbols, from the last trade on; a trade of any ends it, and the next silence is another."""
    watch = watched()
    watch.go(100, A=10, B=10)
    watch.go(20)
    assert watch.silences() == []
    watch.listener.connection += 1
    watch.go(979)
    assert watch.silences(ended_s=5_000) == [(("A", "B"), 100, 5_000)]
    watch.go(1, A=1)
    watch.go(200, A=10, B=10)
    first, *_ = watch.silences(ended_s=5_000)
    assert first == (("A", "B"), 100, 1_100)
    watch.go(20)
    watch.listener.connection += 1
    watch.go(100)
    assert [each for each in watch.silences(ended_s=5_000) if len(each[0]) > 1] == [first, (("A", "B"), 1_300, 5_000)]


def silent_for(rhythm: Rhythm, counts: dict[str, int], start_s: int, most_s: int = 20_000) -> int:
    """Let all symbols be silent; return after how many seconds that is unusual."""
    for second in range(start_s, start_s + most_s):
        if rhythm.look(second * NS_PER_S, second * NS_PER_S, counts).feed_expected is not None:
            return second - start_s + 1
    raise AssertionError("it is never strange")


def test_patience_grows_with_a_feed_that_slows_down_and_shrinks_when_it_speeds_up() -> None:
    """A feed that has become ten times slower is given ten times as long, until it is fast again."""

    def speak(seconds: int, every_s: int, start_s: int) -> int:
        for second in range(start_s, start_s + seconds):
            counts["A"] = counts.get("A", 0) + (second % every_s == 0)
            assert rhythm.look(second * NS_PER_S, second * NS_PER_S, counts).feed_expected is None
        return start_s + seconds

    patience = []
    rhythm, counts, now_s = Rhythm(lambda _symbol, _ns: True), dict[str, int](), 0
    for every_s in (1, 10, 1):
        now_s = speak(2_000, every_s, now_s)
        took_s = silent_for(rhythm, counts, now_s)
        patience.append(took_s)
        now_s += took_s
    assert [round(took_s / 100) for took_s in patience] == [1, 10, 1]


def test_a_feed_is_never_strange_before_twenty_seconds_nor_a_symbol_before_sixty() -> None:
    """However many trades are expected in it, a short silence of a busy feed is not unusual."""
    rhythm, counts = Rhythm(lambda _symbol, _ns: True), {"A": 0, "B": 0}
    for second in range(100):
        counts = {symbol: count + 1_000 for symbol, count in counts.items()}
        rhythm.look(second * NS_PER_S, second * NS_PER_S, counts)
    assert silent_for(rhythm, counts, 100) == 20
    counts["B"] += 1
    found = []
    for second in range(121, 190):
        counts["B"] += 1_000
        found += [(second, symbol) for symbol in rhythm.look(second * NS_PER_S, second * NS_PER_S, counts).symbols]
    assert found == [(159, "A")]


@dataclass(frozen=True, slots=True)
class Busy:
    """A step: trades of these symbols, thirty messages a second, so many, or until that symbol is resubscribed."""

    symbols: tuple[str, ...]
    messages: int = 10_000
    until_again: str | None = None

    def run(self, connection: Connection) -> None:
        at_ns = 1_700_000_000 * NS_PER_S
        for _ in range(self.messages):
            Send([Trade(at_ns, symbol, "1.5", "1") for symbol in self.symbols for _ in range(10)]).run(connection)
            asked = [heard.what for heard in connection.heard if heard.kind == "subscribe"]
            if self.until_again is not None and asked.count(self.until_again) > 1:
                return
            time.sleep(0.03)  # The rhythm that is to be learnt.


def test_a_symbols_silence_is_in_the_record_and_costs_no_connection(
    store: Store, fault_server: Callable[..., FaultServer], session: Callable[..., Recording]
) -> None:
    """The symbol is resubscribed on the same connection; the record has the silence, which ended, and no gap."""
    over, clock, one, other = threading.Event(), Fast().clock(), "BINANCE:A", "BINANCE:B"
    server = fault_server(
        [Subscribed(one, other), Busy((one, other), 60), Busy((one,), until_again=other), Busy((one, other), 20),
         Stall(over)],
    )  # fmt: skip
    now_ns = clock.wall_ns()
    recording = session(
        server.url, (one, other), clock=clock, started_ns=now_ns, deadline_ns=now_ns + 3600 * NS_PER_S,
        ping_every_s=100.0,
    )  # fmt: skip
    recording.when(lambda status: status.trades and status.per_symbol[other] == 800)
    over.set()
    record = recording.end()
    assert (record.connections, record.gaps) == (1, ())
    (silence,) = record.silences
    assert (silence.symbols, silence.reason) == (
        (other,), "silent against its rhythm: a halt, or a feed that does not send it",
    )  # fmt: skip
    heard_ns = [row.ts_recv_ns for row in sealed_rows(store, record.session) if row.trade.symbol == other]
    assert silence.end_ns is not None
    assert heard_ns[599] <= silence.start_ns < heard_ns[600] <= silence.end_ns < record.ended_ns
    assert silence.end_ns - silence.start_ns >= 60 * NS_PER_S
