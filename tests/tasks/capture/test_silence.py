"""Whether a silence is unusual depends on the trades expected in it, not on its length."""

import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import FaultServer, Send, Stall, Step, Subscribed
from recording import Fast, Recording, wait_for

from tasks.capture.listener import Backoff
from tasks.capture.request import CaptureRequest, save_request
from tasks.capture.rhythm import Rhythm
from tasks.capture.session import Session
from tasks.records.ledger import SessionRecord
from tasks.records.trade import NS_PER_S, Trade


def always(_symbol: str, _ns: int) -> bool:
    return True


def watched(
    rhythm: Rhythm, seconds: int, rates: dict[str, float], counts: dict[str, int], start_s: int, seed: int = 1
) -> list[tuple[int, float | None, tuple[str, ...]]]:
    """Let symbols trade at random, so many a second; look each second; return what was unusual, and when."""
    rolls = random.Random(seed)
    strange = []
    for second in range(start_s, start_s + seconds):
        for symbol, rate in rates.items():
            whole, part = divmod(rate, 1)
            counts[symbol] = counts.get(symbol, 0) + int(whole) + (rolls.random() < part)
        silence = rhythm.look(second * NS_PER_S, second * NS_PER_S, counts)
        if silence.feed_expected is not None or silence.symbols:
            strange.append((second, silence.feed_expected, silence.symbols))
    return strange


@pytest.mark.parametrize("seed", range(3))
def test_a_day_of_ordinary_rhythms_is_never_strange(seed: int) -> None:
    """Over six hours of busy, quiet, and very quiet symbols, no silence is unusual."""
    rates = {"BUSY": 40.0, "FAIR": 0.8, "QUIET": 0.02, "RARE": 0.002}
    assert watched(Rhythm(always), 6 * 3600, rates, {}, 0, seed) == []


def test_a_quiet_feed_is_given_time_and_a_busy_one_is_not() -> None:
    """Silence is unusual after 20 s for a feed of 5 trades a second, after half an hour at one trade in 20 s."""
    for rate, earliest, latest in ((5.0, 18, 25), (0.05, 1200, 3000)):
        rhythm, counts = Rhythm(always), dict[str, int]()
        assert watched(rhythm, 4000, {"A": rate}, counts, 0) == []
        (first, *_) = watched(rhythm, 4000, {"A": 0.0}, counts, 4000)
        assert earliest <= first[0] - 4000 <= latest
        assert first[1] is not None
        assert first[1] >= 100


def test_a_symbol_that_is_silent_alone_is_told_once() -> None:
    """While others trade, the silent symbol is reported once for its silence, and again for the next."""
    rhythm, counts = Rhythm(always), dict[str, int]()
    both = {"A": 10.0, "B": 10.0}
    assert watched(rhythm, 600, both, counts, 0) == []
    ((second, feed, symbols),) = watched(rhythm, 600, {"A": 10.0, "B": 0.0}, counts, 600)
    assert (feed, symbols) == (None, ("B",))
    assert 658 <= second <= 670
    assert watched(rhythm, 600, both, counts, 1200) == []
    assert len(watched(rhythm, 600, {"A": 10.0, "B": 0.0}, counts, 1800)) == 1


def test_a_closed_market_is_no_silence_and_a_new_symbol_is_not_judged() -> None:
    """After the close a stock's silence is not unusual; a symbol that has hardly traded is not judged at all."""
    rhythm, counts = Rhythm(lambda symbol, ns: ":" in symbol or ns < 600 * NS_PER_S), dict[str, int]()
    assert watched(rhythm, 600, {"STOCK": 50.0}, counts, 0) == []
    assert watched(rhythm, 3600, {"STOCK": 0.0}, counts, 600) == []
    fresh, few = Rhythm(always), {"NEW": 0}
    assert watched(fresh, 10, {"NEW": 2.0}, few, 0) == []
    assert watched(fresh, 3600, {"NEW": 0.0}, few, 10) == []


def test_a_silence_that_a_new_connection_does_not_end_is_told_once_more_and_no_more() -> None:
    """A feed that stays silent is replaced once and noted once; one trade of each symbol resets that."""
    rhythm, counts = Rhythm(always), dict[str, int]()

    def told(start_s: int, seconds: int) -> list[bool]:
        found = []
        for second in range(start_s, start_s + seconds):
            silence = rhythm.look(second * NS_PER_S, second * NS_PER_S, counts)
            assert silence.symbols == ()
            if silence.feed_expected is not None:
                found.append(silence.again)
                rhythm.restart(second * NS_PER_S)
        return found

    watched(rhythm, 600, {"A": 10.0, "B": 5.0}, counts, 0)
    assert told(600, 3600) == [False, True]
    counts |= {symbol: count + 1 for symbol, count in counts.items()}
    assert told(4_200, 8 * 3600) == [False, True]


@pytest.fixture
def fast(tmp_path: Path) -> Iterator[Callable[..., tuple[Session, list[SessionRecord], threading.Thread]]]:
    """Start a session whose clock runs twenty times as fast, in a thread of its own."""
    started: list[tuple[Session, threading.Thread]] = []

    def start(url: str) -> tuple[Session, list[SessionRecord], threading.Thread]:
        clock = Fast().clock()
        request = CaptureRequest(
            session="20260102T150405Z-00c0ffee", data_dir=tmp_path, feed_url=url, symbols=("BINANCE:A",),
            started_ns=clock.wall_ns(), deadline_ns=clock.wall_ns() + 3600 * NS_PER_S, ping_every_s=100.0,
        )  # fmt: skip
        save_request(request)
        session, records = Session(request, "key", clock, Backoff(first_s=0.0)), list[SessionRecord]()
        thread = threading.Thread(target=lambda: records.append(session.run()), daemon=True)
        started.append((session, thread))
        thread.start()
        return session, records, thread

    yield start
    for session, thread in started:
        session.stop()
        thread.join(20)


def busy(count: int) -> list[Step]:
    """A minute of trades on the fast clock: enough to learn the symbol's rhythm."""
    trades = [Trade((1_700_000_000 + n) * NS_PER_S, "BINANCE:A", "1.5", "1") for n in range(count)]
    return [step for trade in trades for step in (Send([trade]), Stall(Tick()))]


def test_an_open_feed_that_sends_nothing_more_is_left_for_a_new_connection(
    fast: Callable[..., tuple[Session, list[SessionRecord], threading.Thread]],
    fault_server: Callable[..., FaultServer],
) -> None:
    """An open socket does not help: the gap lasts from the last trade to the new connection."""
    over = threading.Event()
    server = fault_server([Subscribed("BINANCE:A"), *busy(60), Stall(over)], [Subscribed("BINANCE:A"), Stall(over)])
    session, records, thread = fast(server.url)
    server.connection(1).wait_heard("subscribe", "BINANCE:A")
    over.set()
    session.stop()
    thread.join(20)
    (record,) = records
    (gap,) = record.gaps
    assert gap.reason.startswith("silent for ")
    assert gap.end_ns is not None
    assert gap.end_ns - gap.start_ns > 15 * NS_PER_S
    assert record.connections == 2


@pytest.mark.slow
def test_a_feed_that_only_answers_pings_is_left_for_a_new_connection(
    session: Callable[..., Recording], fault_server: Callable[..., FaultServer]
) -> None:
    """Answered pings are no reason to keep the connection, and are mentioned in the gap's reason."""
    # After its last step a connection answers pings, and does nothing else.
    server = fault_server([Subscribed("BINANCE:A"), *busy(150)], [Subscribed("BINANCE:A")])
    recording = session(server.url, ("BINANCE:A",), ping_every_s=4.0)  # By the real clock: a pong takes its time.
    wait_for(lambda: len(server.connections) > 1, within_s=60)
    server.connection(1).wait_heard("subscribe", "BINANCE:A")
    (gap,) = recording.end().gaps
    assert sum(heard.kind == "ping" for heard in server.connection(0).heard) >= 3
    assert re.match(r"silent for 2\d s, with pings answered", gap.reason)


@pytest.mark.slow
def test_a_silent_feed_costs_one_reconnect_and_is_noted(
    tmp_path: Path,
    fast: Callable[..., tuple[Session, list[SessionRecord], threading.Thread]],
    fault_server: Callable[..., FaultServer],
) -> None:
    """If the new connection is as silent, there is no third one and no overlapping gap, only a note."""
    over = threading.Event()
    server = fault_server([Subscribed("BINANCE:A"), *busy(60), Stall(over)], [Subscribed("BINANCE:A"), Stall(over)])
    session, records, thread = fast(server.url)
    server.connection(1).wait_heard("subscribe", "BINANCE:A")
    log = tmp_path / "sessions" / "20260102T150405Z-00c0ffee" / "status.json"
    since_ns = json.loads(log.read_text())["updated_ns"]
    wait_for(lambda: json.loads(log.read_text())["updated_ns"] > since_ns + 200 * NS_PER_S)
    over.set()
    session.stop()
    thread.join(20)
    (record,) = records
    assert (record.connections, len(record.gaps)) == (2, 1)
    (silence,) = record.silences
    assert "on a new connection too" in silence.reason
    assert (silence.symbols, silence.start_ns) == (("BINANCE:A",), record.gaps[0].start_ns)


class Tick(threading.Event):
    """An event that sets itself after a moment: the test's feed sends about thirty times a second."""

    def wait(self, timeout: float | None = None) -> bool:
        time.sleep(0.03)
        self.set()
        return True
