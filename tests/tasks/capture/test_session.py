"""One session, recorded by a separate process from a real websocket on loopback."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.capture.recovery import KILLED, close_killed, killed_sessions
from tasks.capture.request import CaptureRequest, own_request
from tasks.capture.supervise import LOG_FILE, Recorder, start_or_attach
from tasks.errors import ConflictError, TransientError
from tasks.records.ledger import Request
from tasks.records.manifest import Seal, read
from tasks.records.names import BatchName, session_name
from tasks.records.trade import JOURNAL_HEADER, NS_PER_S, Trade
from tasks.replay.run import Replay, serve_in_thread
from tasks.replay.server import ReplayOptions
from tasks.storage.store import Store

KEY = "a-very-secret-key"
SYMBOLS = ("AAPL", "MSFT", "BINANCE:BTCUSDT")


def tape(count: int) -> list[Trade]:
    """So many trades, one each millisecond, of the symbols in turn."""
    start_ns = 1_700_000_000 * NS_PER_S
    return [
        Trade(start_ns + n * 1_000_000, SYMBOLS[n % 3], f"{100 + n}.{n % 10}0", str(n), ("1",) if n % 3 < 2 else ())
        for n in range(count)
    ]


def tape_of(one: str, other: str, n: int) -> tuple[Trade, Trade]:
    """The n-th millisecond's trade of each of the two."""
    at_ns = 1_700_000_000 * NS_PER_S + n * 1_000_000
    return Trade(at_ns, one, f"{n}.5", "1"), Trade(at_ns, other, f"{n}.5", "1")


@pytest.fixture
def served() -> Iterator[Callable[..., Replay]]:
    """Serve trades as the vendor would, until the test ends."""
    replays: list[Replay] = []
    contexts = []

    def serve(trades: list[Trade], **options: object) -> Replay:
        context = serve_in_thread(trades, ReplayOptions(**{"speed": None, "original_times": True, **options}))  # type: ignore[arg-type]
        replays.append(context.__enter__())
        contexts.append(context)
        return replays[-1]

    yield serve
    for context in contexts:
        context.__exit__(None, None, None)


def ask(root: Path, url: str, **changes: object) -> CaptureRequest:
    """A request for half a minute; the tests end it earlier."""
    now_ns = time.time_ns()
    request = CaptureRequest(
        session=session_name(now_ns, os.urandom),
        data_dir=root,
        feed_url=url,
        symbols=SYMBOLS,
        started_ns=now_ns,
        deadline_ns=now_ns + 30 * NS_PER_S,
    )
    return replace(request, **changes)  # type: ignore[arg-type]


@pytest.fixture
def record() -> Iterator[Callable[[CaptureRequest], Recorder]]:
    """Start recorders; kill those that a failing test leaves behind."""
    started: list[Recorder] = []

    def start(request: CaptureRequest, key: str = KEY, wanted: Request | None = None) -> Recorder:
        Store(request.data_dir).prepare()
        recorder = start_or_attach(request, key, wanted)
        started.append(recorder)
        return recorder

    yield start
    for recorder in started:
        if recorder.is_alive:
            kill(recorder)


def pid_of(recorder: Recorder) -> int:
    status = wait_for(recorder.status)
    return status.pid


def kill(recorder: Recorder) -> None:
    """Kill -9, and wait until the process is gone."""
    os.kill(pid_of(recorder), signal.SIGKILL)
    wait_for(lambda: not recorder.is_alive)


def wait_for(condition: Callable[[], object], within_s: float = 30) -> object:  # type: ignore[explicit-any]
    """Return what the condition returns once it is true."""
    end = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
    return value


def trades_seen(recorder: Recorder) -> int:
    status = recorder.status()
    return status.trades if status else 0


def sealed_rows(root: Path, session: str) -> list[bytes]:
    """Return the rows of all sealed batches of a session, in order."""
    rows: list[bytes] = []
    for name in Store(root).sealed_batches():
        if name.session == session:
            content = (Store(root).sealed / name.sealed).read_bytes()
            assert content.startswith(JOURNAL_HEADER)
            rows += content[len(JOURNAL_HEADER) :].splitlines()
    return rows


def row(trade: Trade, with_seq: int) -> tuple[str, ...]:
    return (
        str(with_seq), str(trade.ts_event_ns), trade.symbol, trade.price, trade.size, ";".join(trade.conditions),
    )  # fmt: skip


def as_sent(line: bytes) -> tuple[str, ...]:
    """Return a row without what we added: connection and ts_recv."""
    _, seq, _, *vendor = line.decode().split(",")
    return (seq, *vendor)


def test_what_is_sent_is_sealed_row_for_row(
    tmp_path: Path, served: Callable[..., Replay], record: Callable[..., Recorder]
) -> None:
    """Every trade that the feed sends is a sealed row, in order, digits unchanged, and the record says so."""
    trades = tape(20_000)
    server = served(trades)
    recorder = record(ask(tmp_path, server.url, batch_bytes=200_000))
    wait_for(lambda: trades_seen(recorder) == len(trades))
    recorder.stop()
    batches = list(recorder.sealed())
    result = recorder.record()
    rows = sealed_rows(tmp_path, result.session)
    assert [as_sent(each) for each in rows] == [row(trade, n) for n, trade in enumerate(trades, 1)]
    assert (result.outcome, result.gaps, result.never_heard, result.connections) == ("stopped", (), (), 1)
    assert len(batches) == result.batches[0] > 3
    seals = [read(Store(tmp_path).sealed / name.seal, Seal) for name in batches]
    assert sum(seal.frames.received for seal in seals) == result.frames_received
    assert sum(seal.frames.trade for seal in seals) == server.counts.messages
    stamps = [int(each.split(b",")[2]) for each in rows]
    assert stamps == sorted(stamps)
    assert result.started_ns <= stamps[0] <= stamps[-1] <= result.ended_ns
    assert not (Store(tmp_path).spool / result.session).exists()


def test_the_deadline_ends_a_session_that_still_hears(
    tmp_path: Path, served: Callable[..., Replay], record: Callable[..., Recorder]
) -> None:
    """At its deadline a session unsubscribes, receives what is in flight, and ends as complete."""
    server = served(tape(1_000_000), speed=20.0)
    request = ask(tmp_path, server.url)
    recorder = record(replace(request, deadline_ns=request.started_ns + 2 * NS_PER_S))
    for _ in recorder.sealed():
        pass
    result = recorder.record()
    assert result.outcome == "complete"
    assert result.ended_ns >= result.deadline_ns
    assert len(sealed_rows(tmp_path, result.session)) == server.sent > 1000


@pytest.mark.parametrize("lanes", [2, 3])
def test_a_symbol_travels_in_one_lane(
    tmp_path: Path, served: Callable[..., Replay], record: Callable[..., Recorder], lanes: int
) -> None:
    """With several lanes each symbol's trades are in one lane's batches, in order, and recv_seq has no hole."""
    trades = tape(9_000)
    recorder = record(ask(tmp_path, served(trades).url, lanes=lanes, batch_bytes=100_000))
    wait_for(lambda: trades_seen(recorder) == len(trades))
    recorder.stop()
    batches = list(recorder.sealed())
    result = recorder.record()
    lane_of: dict[str, set[int]] = {}
    prices: dict[str, list[str]] = {}
    seqs: list[int] = []
    for name in batches:
        for line in (Store(tmp_path).sealed / name.sealed).read_bytes().decode().splitlines()[1:]:
            _, seq, _, _, symbol, price, *_ = line.split(",")
            lane_of.setdefault(symbol, set()).add(name.lane)
            prices.setdefault(symbol, []).append(price)
            seqs.append(int(seq))
    assert all(len(found) == 1 for found in lane_of.values())
    assert len({*map(tuple, lane_of.values())}) == lanes
    assert sorted(seqs) == list(range(1, len(trades) + 1))
    for symbol in SYMBOLS:
        assert prices[symbol] == [trade.price for trade in trades if trade.symbol == symbol]
    assert result.batches == tuple(sum(name.lane == lane for name in batches) for lane in range(lanes))


@pytest.mark.slow
def test_a_killed_recorder_loses_nothing_that_was_journalled_and_its_gap_is_named(
    tmp_path: Path, served: Callable[..., Replay], record: Callable[..., Recorder]
) -> None:
    """After kill -9 the rows with valid checksums are sealed, and the gap lasts from there to the deadline."""
    trades = tape(1_000_000)
    recorder = record(ask(tmp_path, served(trades, speed=30.0).url, batch_bytes=100_000))
    wait_for(lambda: trades_seen(recorder) > 5_000)
    kill(recorder)
    with pytest.raises(TransientError, match="died \\(SIGKILL\\)"):
        recorder.record()
    store, session = Store(tmp_path), recorder.request.session
    journalled = sum(
        # Killed between a journal's creation and its header, there is none yet.
        max(0, path.read_bytes().count(b"\n") - 1)
        # Killed between the moves of a journal and of its seal, it is in `sealed/` and no batch yet.
        for path in (*(store.spool / session).glob("*.csv.open"), *store.sealed.glob(f"{session}-*.csv"))
    )
    assert killed_sessions(store) == [session]
    result = close_killed(store, session, time.time_ns())
    assert killed_sessions(store) == []
    rows = sealed_rows(tmp_path, session)
    assert [as_sent(each) for each in rows] == [row(trade, n) for n, trade in enumerate(trades[: len(rows)], 1)]
    # Killed between a write and its checksum, one write's rows are in quarantine instead.
    cut = sum(path.read_bytes().count(b"\n") for path in store.quarantine.glob("*.cut"))
    assert len(rows) + cut == journalled
    assert (result.outcome, result.error) == ("killed", KILLED)
    (gap,) = result.gaps
    assert (gap.symbols, gap.end_ns, gap.reason) == (SYMBOLS, result.deadline_ns, KILLED)
    assert int(rows[-1].split(b",")[2]) <= gap.start_ns < result.deadline_ns


@pytest.mark.slow
def test_a_new_start_goes_on_with_the_session_of_a_killed_recorder(
    tmp_path: Path, served: Callable[..., Replay], record: Callable[..., Recorder]
) -> None:
    """Started again before its deadline, the same session goes on: one record, and a gap that has ended."""
    server = served(tape(1_000_000), speed=30.0)
    request = ask(tmp_path, server.url, batch_bytes=100_000)
    first = record(request)
    wait_for(lambda: trades_seen(first) > 3_000)
    kill(first)
    before = trades_seen(first)
    second = record(request)
    wait_for(lambda: trades_seen(second) > before + 3_000)
    second.stop()
    list(second.sealed())
    result = second.record()
    assert (result.session, result.outcome, result.connections) == (request.session, "stopped", 2)
    (gap,) = result.gaps
    assert gap.reason == KILLED
    assert gap.end_ns is not None
    assert request.started_ns < gap.start_ns < gap.end_ns < result.ended_ns
    names = sorted(name for name in Store(tmp_path).sealed_batches())
    assert names == [BatchName(request.session, 0, number) for number in range(len(names))]
    rows = sealed_rows(tmp_path, request.session)
    for connection in (b"1", b"2"):
        seqs = [int(each.split(b",")[1]) for each in rows if each.split(b",")[0] == connection]
        assert seqs == list(range(1, len(seqs) + 1))
        assert seqs
    assert not any(gap.start_ns < int(each.split(b",")[2]) < gap.end_ns for each in rows)


def test_a_refused_key_ends_the_session_at_once_and_says_what_to_do(
    tmp_path: Path, served: Callable[..., Replay], record: Callable[..., Recorder]
) -> None:
    """If the feed refuses the key, retrying is no use: the session fails, and its error names the next step."""
    recorder = record(ask(tmp_path, served(tape(1), key="another").url))
    list(recorder.sealed())
    result = recorder.record()
    assert result.outcome == "failed"
    assert "HTTP 401" in (result.error or "")
    assert "TAPE_REPLAY_KEY" in (result.error or "")
    assert result.connections == 0


def wants(session: CaptureRequest, name: str, symbols: tuple[str, ...] = SYMBOLS, seconds: float = 30) -> Request:
    """A run's request, from now on for so many seconds."""
    now_ns = time.time_ns()
    until_ns = now_ns + int(seconds * NS_PER_S)
    return replace(own_request(session), id=name, owner=name, symbols=symbols, start_ns=now_ns, until_ns=until_ns)


def test_a_second_run_joins_the_recorder_with_its_own_symbols_and_its_own_end(
    tmp_path: Path, served: Callable[..., Replay], record: Callable[..., Recorder]
) -> None:
    """Two runs with one key share one recorder and connection: it records both lists, until the later end."""
    server = served([trade for n in range(20_000) for trade in tape_of("AAPL", "IBM", n)], speed=30.0)
    short = ask(tmp_path, server.url, symbols=("AAPL",))
    first = record(short, wanted=wants(short, "first", ("AAPL",), 3))
    other = ask(tmp_path, server.url, symbols=("IBM",))
    second = record(other, wanted=wants(other, "second", ("IBM",), 6))
    assert second.attached
    assert second.request.session == first.request.session
    list(first.sealed())
    assert first.is_done
    assert second.is_alive
    list(second.sealed())
    result = second.record()
    assert (result.outcome, result.connections, result.symbols) == ("complete", 1, ("AAPL", "IBM"))
    assert [request.owner for request in result.requests] == ["first", "second"]
    assert [(each.symbol, each.action) for each in result.changes] == [("IBM", "added"), ("AAPL", "removed")]
    assert result.ended_ns >= result.deadline_ns == result.requests[1].until_ns
    assert first.wanted.until_ns <= result.changes[1].at_ns < result.ended_ns


def test_what_a_run_wanted_is_sealed_when_its_time_is_over_though_the_recorder_goes_on(
    tmp_path: Path, served: Callable[..., Replay], record: Callable[..., Recorder]
) -> None:
    """A run that is done finds every trade of its time in sealed batches, however young the open ones are."""
    server = served(tape(1_000_000), speed=30.0)
    session = ask(tmp_path, server.url, lanes=2)
    first = record(session, wanted=wants(session, "first", seconds=2))
    second = record(session, wanted=wants(session, "second"))
    list(first.sealed())
    assert second.is_alive
    rows = sealed_rows(tmp_path, session.session)
    assert max(int(each.split(b",")[2]) for each in rows) > first.wanted.until_ns
    second.stop()
    list(second.sealed())
    everything = sealed_rows(tmp_path, session.session)
    until = b"%d" % first.wanted.until_ns
    assert sum(each.split(b",")[2] < until for each in rows) == sum(each.split(b",")[2] < until for each in everything)
    assert second.record().outcome == "stopped"


@pytest.mark.slow
def test_a_recorder_stops_when_the_last_run_that_wants_it_is_cancelled(
    tmp_path: Path, served: Callable[..., Replay], record: Callable[..., Recorder]
) -> None:
    """If the second run is canceled, the first one's recording goes on, and ends when that is canceled too."""
    session = ask(tmp_path, served(tape(1_000_000), speed=20.0).url)
    first, second = (record(session, wanted=wants(session, name)) for name in ("first", "second"))
    second.stop()
    list(second.sealed())
    seen = trades_seen(first)
    wait_for(lambda: trades_seen(first) > seen + 500)
    assert first.is_alive
    first.stop()
    list(first.sealed())
    result = first.record()
    assert (result.outcome, result.gaps) == ("stopped", ())
    assert all(request.withdrawn_ns is not None for request in result.requests)


def test_a_killed_runs_request_gives_way_to_the_run_that_follows_it(
    tmp_path: Path, served: Callable[..., Replay], record: Callable[..., Recorder]
) -> None:
    """A dead process's request stays until one for as much replaces it: a single stop then ends it."""
    session = ask(tmp_path, served(tape(1_000_000), speed=20.0).url)
    dead = subprocess.run(
        [sys.executable, "-c", "from tasks.records.requests import this_process; print(this_process())"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    record(session, wanted=replace(wants(session, "killed"), process=dead))
    less = record(session, wanted=wants(session, "less", SYMBOLS[:1]))
    less.stop()
    list(less.sealed())
    assert less.is_alive
    as_much = record(session, wanted=wants(session, "as-much"))
    as_much.stop()
    list(as_much.sealed())
    wait_for(lambda: not as_much.is_alive)
    assert as_much.record().outcome == "stopped"


def test_a_run_that_comes_while_the_recorder_ends_gets_one_of_its_own(
    tmp_path: Path, served: Callable[..., Replay], record: Callable[..., Recorder]
) -> None:
    """A recorder that has begun to end accepts no requests: the next run waits for the key and starts another."""
    server = served(tape(1_000_000), speed=20.0)
    first = record(ask(tmp_path, server.url))
    wait_for(lambda: trades_seen(first) > 100)
    first.stop()
    wait_for(lambda: (first.request.folder / "requests" / "closed").exists() or not first.is_alive)
    second = record(ask(tmp_path, server.url))
    assert not second.attached
    assert second.request.session != first.request.session
    list(first.sealed())
    assert first.record().outcome == "stopped"
    wait_for(lambda: trades_seen(second) > 100)


def test_a_key_in_use_in_another_data_folder_is_refused(
    tmp_path: Path, served: Callable[..., Replay], record: Callable[..., Recorder]
) -> None:
    """A recorder cannot record into two folders: the second start's error names who holds the key."""
    server = served(tape(1))
    first = record(ask(tmp_path / "one", server.url))
    with pytest.raises(ConflictError, match=first.request.session):
        record(ask(tmp_path / "two", server.url))
    assert not list((tmp_path / "two").glob("sessions/*"))


def test_of_two_starts_at_once_one_joins_the_other(
    tmp_path: Path, served: Callable[..., Replay], record: Callable[..., Recorder]
) -> None:
    """Two runs that start at once share the recorder of the first one and leave no empty session."""
    server = served(tape(1_000_000), speed=20.0)
    sessions = [ask(tmp_path, server.url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        recorders = list(pool.map(record, sessions))
    assert sum(not each.attached for each in recorders) == 1
    (folder,) = (tmp_path / "sessions").iterdir()
    assert {each.request.session for each in recorders} == {folder.name}
    for each in recorders:
        each.stop()
    list(recorders[0].sealed())
    assert killed_sessions(Store(tmp_path)) == []


def test_the_feed_away_is_a_gap_until_it_is_back(tmp_path: Path, record: Callable[..., Recorder]) -> None:
    """A feed that is not there yet is retried, and the time until the first subscription is a named gap."""
    with serve_in_thread(tape(1)) as probe:
        port = int(probe.url.rsplit(":", 1)[1])
    recorder = record(ask(tmp_path, f"ws://127.0.0.1:{port}"))
    wait_for(lambda: (status := recorder.status()) and status.open_gaps)
    with serve_in_thread(tape(3_000), ReplayOptions(speed=None, original_times=True), port=port):
        wait_for(lambda: trades_seen(recorder) == 3_000)
        recorder.stop()
        list(recorder.sealed())
    result = recorder.record()
    (gap,) = result.gaps
    assert (gap.symbols, gap.start_ns, gap.end_ns) == (SYMBOLS, result.started_ns, result.listening_ns)
    assert gap.reason == "no connection: connection refused"


def test_the_key_is_nowhere(tmp_path: Path, served: Callable[..., Replay], record: Callable[..., Recorder]) -> None:
    """During and after recording, the key is in no file, argument, or environment of the recorder."""
    recorder = record(ask(tmp_path, served(tape(1_000)).url))
    wait_for(lambda: trades_seen(recorder) == 1_000)
    process = Path(f"/proc/{pid_of(recorder)}")
    for shown in ("cmdline", "environ"):
        assert KEY.encode() not in (process / shown).read_bytes()
    recorder.stop()
    list(recorder.sealed())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == LOG_FILE for path in files)
    for path in files:
        assert KEY.encode() not in path.read_bytes(), path


def test_a_full_disk_ends_the_session_loudly_and_what_was_written_is_usable(
    tmp_path: Path, served: Callable[..., Replay], record: Callable[..., Recorder]
) -> None:
    """Below the reserve the session fails and says what to do; everything written is sealed, the gap named."""
    recorder = record(ask(tmp_path, served(tape(1_000)).url, disk_reserve_bytes=1 << 60))
    list(recorder.sealed())
    result = recorder.record()
    assert result.outcome == "failed"
    assert "below the reserve" in (result.error or "")
    assert "TAPE_DISK_RESERVE" in (result.error or "")
    assert result.gaps[-1].end_ns == result.deadline_ns


def test_stop_is_heard_at_any_moment(
    tmp_path: Path, served: Callable[..., Replay], record: Callable[..., Recorder]
) -> None:
    """SIGTERM in the middle of a burst, from another thread, still seals every trade that was received."""
    server = served(tape(200_000))
    recorder = record(ask(tmp_path, server.url, queue_bytes=1 << 20))
    threading.Timer(0.05, recorder.stop).start()
    list(recorder.sealed())
    result = recorder.record()
    assert result.outcome == "stopped"
    rows = sealed_rows(tmp_path, result.session)
    assert [int(each.split(b",")[1]) for each in rows] == list(range(1, len(rows) + 1))


def test_a_run_of_another_feed_does_not_join_the_recorder_that_has_the_key(
    tmp_path: Path, served: Callable[..., Replay], record: Callable[..., Recorder]
) -> None:
    """A second feed on one address and key is refused: its messages would be parsed by the wrong vendor's rules."""
    replay = served(tape(10))
    first = record(ask(tmp_path, replay.url))
    with pytest.raises(ConflictError, match=r"records the feed finnhub, not coinbase"):
        record(ask(tmp_path, replay.url, feed="coinbase", symbols=("BTC-USD",)))
    first.stop()
