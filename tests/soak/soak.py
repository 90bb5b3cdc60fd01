"""Checks that a recording in a storm has exactly what was sent, except for cuts and gaps with a cause.

    python tests/soak/soak.py [--minutes 3] [--seconds N] [--seed S]

A loopback feed plays random faults (`storm.py`), the recorder is a process of its own with several lanes, and is
killed now and then and started again into the same session, as the capture task does. In the end the weather is
calm, the session is stopped in order, and everything is judged from the files and from what the server and the
killer know. Exit status 0 where every law held; the seed is printed first.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from faults import FaultServer, Written
from storm import REASONS, Storm, Weather

from tasks.capture.request import CaptureRequest
from tasks.capture.supervise import LOG_FILE, Recorder, start_or_attach
from tasks.compress.parquet import compress
from tasks.records.ledger import Gap, SessionRecord
from tasks.records.names import session_name
from tasks.records.trade import JOURNAL_HEADER, NS_PER_S, Trade
from tasks.storage.locks import SESSION_LOCK
from tasks.storage.store import Store
from tasks.validate.schema import Limits
from tasks.validate.split import split
from tasks.verify.account import ledger_for
from tasks.verify.laws import verify

SYMBOLS = ("AAPL", "MSFT", "NVDA", "BINANCE:BTCUSDT", "IBM", "F")
# A gap begins at the receipt of the last bytes before it. What had been sent by then, but not taken yet, is lost with
# it, and was sent so much earlier at most: on a loaded machine the recorder may have waited for its turn.
_TRANSIT_NS = 2 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Row:
    """One sealed row: its position in the order of receipt, and the vendor's trade."""

    connection: int
    seq: int
    trade: Trade


def ask(root: Path, url: str, chance: random.Random, seconds: float) -> CaptureRequest:
    """A request with short time limits, longer than the storm."""
    now_ns = time.time_ns()
    return CaptureRequest(
        session=session_name(now_ns, os.urandom), data_dir=root, feed_url=url, symbols=SYMBOLS, started_ns=now_ns,
        deadline_ns=now_ns + int((seconds + 120) * NS_PER_S), lanes=chance.choice((2, 3)), batch_bytes=200_000,
        batch_for_ns=2 * NS_PER_S, ping_every_s=0.5, reconnect_within_s=0.5, connect_timeout_s=3.0,
        queue_bytes=1 << 20,
    )  # fmt: skip


def weather_it(request: CaptureRequest, weather: Weather, server: FaultServer, seconds: float) -> SessionRecord:
    """Record through the storm, with kills; return the record of the cleanly ended session."""
    chance = random.Random(f"{weather.seed} killer")
    recorder = start_or_attach(request, "a-key-of-no-worth")
    try:
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(left_s, chance.choice((0.05, 1.0, 3.0, 8.0)) * chance.uniform(0.5, 1.5)))
            if time.monotonic() < end_s:
                kill(recorder, weather)
                recorder = start_or_attach(request, "a-key-of-no-worth")
        weather.calm.set()
        calm_ns = time.time_ns()
        wait_for(lambda: sum(w.began_ns > calm_ns for w in server.connections[-1].written) > 20, recorder)
        recorder.stop()
        wait_for(lambda: not recorder.is_alive, None)
        return recorder.record()
    finally:
        if recorder.is_alive:
            kill(recorder, weather)


def kill(recorder: Recorder, weather: Weather) -> None:
    """Kill it with SIGKILL, and wait for its end."""
    lock = recorder.request.folder / SESSION_LOCK
    wait_for(lambda: lock.read_text() or not recorder.is_alive, None)
    weather.note("kill")
    os.kill(int(lock.read_text()), signal.SIGKILL)
    wait_for(lambda: not recorder.is_alive, None)


def wait_for(holds: Callable[[], object], recorder: Recorder | None, within_s: float = 30) -> None:
    """Wait for a condition. Raises AssertionError on a timeout or if the recorder ends first."""
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s, "it did not happen in time"
        assert recorder is None or recorder.is_alive, "the recorder has ended by itself"
        time.sleep(0.01)


def sealed_rows(store: Store) -> list[Row]:
    """Every sealed row, in order of receipt."""
    rows = []
    for name in store.sealed_batches():
        content = (store.sealed / name.sealed).read_bytes()
        assert content.startswith(JOURNAL_HEADER)
        for line in content[len(JOURNAL_HEADER) :].decode().splitlines():
            connection, seq, _, event_ns, symbol, price, size, conditions = line.split(",")
            trade = Trade(int(event_ns), symbol, price, size, tuple(conditions.split(";")))
            rows.append(Row(int(connection), int(seq), trade))
    return sorted(rows, key=lambda row: (row.connection, row.seq))


def lost(rows: list[Row], server: FaultServer) -> Iterator[tuple[str, Written]]:
    """Return each fully sent trade without a row, as symbol and message.

    Of each connection a symbol's rows are what was sent from the start, up to a loss. Raises AssertionError where
    there is a row that was not sent, was cut, stands twice or in another order.
    """
    for symbol in SYMBOLS:
        mine = [row.trade for row in rows if row.trade.symbol == symbol]
        for connection in server.connections:
            sent = [
                (trade, written)
                for written in connection.written
                if written.whole
                for trade in written.trades
                if trade.symbol == symbol
            ]
            kept = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1][0], zip(mine, sent, strict=False)))
            mine = mine[kept:]
            yield from ((symbol, written) for _, written in sent[kept:])
        assert not mine, f"{symbol}: a row not as sent, or after a loss on its connection: {mine[0]}"


def judge_gaps(
    record: SessionRecord, server: FaultServer, missing: list[tuple[str, Written]], weather: Weather
) -> None:
    """Check that every loss and end is in a gap, and that the server or killer knows every gap's cause.

    A gap may begin later than its cause, with the last bytes that were still on their way, but not after the next
    connection. A kill, and a handshake that is refused, lie within it to the nanosecond.
    """
    begun_ns = [connection.written[0].began_ns for connection in server.connections if connection.written]
    until_ns = {
        event: event.at_ns if event.kind in ("kill", "503")
        else min((each for each in begun_ns if each > event.at_ns), default=record.ended_ns)
        for event in weather.events
    }  # fmt: skip
    for symbol, written in missing:
        around = (written.began_ns, written.ended_ns + _TRANSIT_NS)
        assert any(symbol in gap.symbols and _meets(gap, *around) for gap in record.gaps), f"{symbol}: lost: {written}"
    for event, end_ns in until_ns.items():
        heard = set(SYMBOLS).difference(*(gap.symbols for gap in record.gaps if _meets(gap, event.at_ns, end_ns)))
        assert not heard, f"{event}: no gap for {heard} among {record.gaps}"
    for gap in record.gaps:
        kinds = {kind for kind, reasons in REASONS.items() if any(reason in gap.reason for reason in reasons)}
        whole = _with_next(gap, record.gaps) if "kill" in kinds else gap
        causes = [each for each, end_ns in until_ns.items() if each.kind in kinds and _meets(whole, each.at_ns, end_ns)]
        assert causes, f"a gap without its cause: {gap}"


def _with_next(gap: Gap, gaps: Iterable[Gap]) -> Gap:
    """Join a gap with one that begins at its end: a kill in an outage also loses data queued before it."""
    ends = [each.end_ns or 0 for each in gaps if each.start_ns == gap.end_ns and {*gap.symbols} & {*each.symbols}]
    return replace(gap, end_ns=max(ends)) if ends else gap


def _meets(gap: Gap, from_ns: int, to_ns: int) -> bool:
    assert gap.end_ns is not None, f"a gap that has not ended: {gap}"
    return gap.start_ns <= to_ns and from_ns <= gap.end_ns


def judge_changes(record: SessionRecord, server: FaultServer) -> None:
    """Check that each symbol has a gap between two connections with trades."""
    spoke = [connection.written for connection in server.connections if connection.written]
    for before, after in pairwise(spoke):
        from_ns, to_ns = before[-1].ended_ns, after[0].began_ns
        between = [gap for gap in record.gaps if gap.start_ns <= to_ns and (gap.end_ns or 0) >= from_ns]
        heard = set(SYMBOLS).difference(*(gap.symbols for gap in between))
        assert not heard, f"a change of connection between {from_ns} and {to_ns}: no gap for {heard}"


def judge_archive(store: Store, record: SessionRecord, rows: int) -> None:
    """Validate and compress, and check the ledger, every law, and all rows."""
    for name in store.sealed_batches():
        split(store, name, Limits(None, None))
        compress(store, name)
    ledger = ledger_for(store, record.session)
    assert ledger.imbalances() == []
    assert (ledger.trades.archived, ledger.trades.quarantined) == (rows, 0)
    verdict = verify(store)
    assert verdict.holds, "\n".join(map(str, verdict.broken))
    assert list(store.spool.iterdir()) == [], "left in the spool"


def run(root: Path, seconds: float, seed: int) -> str:
    """Run and check one storm; return its result. Raises AssertionError."""
    weather, store = Weather(seed, SYMBOLS), Store(root).prepare()
    with FaultServer(then=[Storm(weather=weather)]) as server:
        request = ask(root, server.url, random.Random(seed), seconds)
        record = weather_it(request, weather, server, seconds)
    rows = sealed_rows(store)
    missing = list(lost(rows, server))
    assert record.outcome == "stopped", record.error
    judge_gaps(record, server, missing, weather)
    judge_changes(record, server)
    judge_archive(store, record, len(rows))
    ends, sent = Counter(event.kind for event in weather.events), len(server.sent)
    assert len(rows) + len(missing) == sent
    return (
        f"{seconds:g} s, {request.lanes} lanes, {len(server.connections)} connections; "
        f"ends: {', '.join(f'{kind} {ends[kind]}' for kind in REASONS)}\n"
        f"messages besides plain ones: {', '.join(f'{kind} {n}' for kind, n in sorted(weather.steps.items()))}\n"
        f"{sent:,} trades sent whole = {len(rows):,} sealed + {len(missing):,} lost in gaps; "
        f"{len(server.cut):,} cut; {len(record.gaps)} gaps, each with its cause; the ledger balances, all laws hold"
    )


def main() -> None:
    """Run, and print the result; a failed run's data folder is kept and named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seconds", type=float, default=None)
    parser.add_argument("--seed", type=int, default=None)
    asked = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if asked.seed is None else asked.seed
    print(f"seed {seed}", flush=True)
    root = Path(tempfile.mkdtemp(prefix="tape-soak-"))
    try:
        print(run(root, asked.minutes * 60 if asked.seconds is None else asked.seconds, seed))
    except BaseException:
        print(f"left as it is: {root}; the recorder's log: {next(root.glob(f'sessions/*/{LOG_FILE}'), None)}")
        raise
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
