"""`resent` marks redelivered trades and not the equal prints of real days."""

import gzip
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.compress.parquet import compress
from tasks.records.manifest import Report, read
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.validate.doubled import Doubled
from tasks.validate.resent import Resent
from tasks.validate.runs import Runs
from tasks.validate.schema import Limits
from tasks.validate.split import split

SealBatch = Callable[..., BatchName]
ROOT = Path(__file__).parents[3]
TAPES = sorted((ROOT / ".." / "shared" / "tape").glob("*.csv.gz"))
OFF = Limits(None, None)
SESSION = "20261124T143000Z-9f3c01ab"
T, MS, S = 1_764_000_000_000_000_000, 1_000_000, 1_000_000_000
Tape = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


# A slow and plain version of the definition.
def plain_marks(trades: Sequence[int], reach: int, back: int, width: int, changes: int, pairs: int) -> list[bool]:
    """The marks of all rows by the definitions in `runs.py` and `doubled.py`, computed naively."""
    marks = [False] * len(trades)
    for row in range(len(trades) - 2):
        distance = plain_distance(trades, row)
        for step in (1, -1):
            at = row
            while 0 < distance <= back and abs(at - row) <= reach and distance <= at < len(trades):
                if trades[at] != trades[at - distance]:
                    break
                marks[at] = True
                at += step
    for row in plain_doubled(trades, width, changes, pairs):
        marks[row] = True
    return marks


def plain_distance(trades: Sequence[int], row: int) -> int:
    """Return the distance of the witness that begins at a row, or 0."""
    three = trades[row : row + 3]
    if len(set(three)) < 3:
        return 0
    last = [max((at for at in range(row + step) if trades[at] == three[step]), default=-1) for step in range(3)]
    distances = {row + step - last[step] for step in range(3)}
    return distances.pop() if min(last) >= 0 and len(distances) == 1 else 0


def plain_doubled(trades: Sequence[int], width: int, changes: int, pairs: int) -> Iterator[int]:
    """The second halves of the pairs in chains."""

    def begins(row: int) -> list[int]:
        return [w for w in range(1, width + 1) if list(trades[row : row + w]) == list(trades[row + w : row + 2 * w])
                and row + 2 * w <= len(trades)]  # fmt: skip

    def changed(row: int, w: int) -> int:
        return sum(at == 0 or trades[at] != trades[at - 1] for at in range(row, row + w))

    def ahead(row: int, left: int) -> tuple[int, int]:
        """The most changes within the next pairs from a row on, and the negated width to use."""
        options = [(changed(row, w) + ahead(row + 2 * w, left - 1)[0], -w) for w in begins(row)] if left else []
        return max(options, default=(0, 0))

    row, chain = 0, False
    while row < len(trades):
        most, width_here = ahead(row, pairs)
        chain = bool(width_here) and (chain or most >= changes)
        if not chain:
            row += 1
            continue
        yield from range(row - width_here, row - 2 * width_here)
        row -= 2 * width_here


def marks_of(trades: Sequence[int], times: Sequence[int], cuts: Sequence[int], **limits: int) -> list[bool]:
    """Return the marks of `Resent` for trades added in these pieces."""
    numbers = pl.Series(trades, dtype=pl.Int64).hash().to_numpy()
    runs = Runs(limits["reach"], limits["back"])
    resent = Resent(runs, Doubled(limits["width"], limits["changes"], limits["pairs"]))
    found, start = list[bool](), 0
    for stop in (*cuts, len(trades)):
        found += resent.add(numbers[start:stop], np.array(times[start:stop], np.int64)).tolist()
        start = stop
    return found + resent.end().tolist()


@st.composite
def repetitive(draw: st.DrawFn) -> list[int]:
    """Few distinct trades, with stretches repeated at once, later, or one by one."""
    trades: list[int] = []
    for _ in range(draw(st.integers(1, 6))):
        new = draw(st.lists(st.integers(0, draw(st.sampled_from([2, 4, 9]))), max_size=8))
        again = draw(st.sampled_from(["new", "twice", "each twice", "earlier"]))
        if again == "earlier" and trades:
            start = draw(st.integers(0, len(trades) - 1))
            trades += trades[start : start + draw(st.integers(1, 12))]
        else:
            trades += [each for each in new for _ in range(2)] if again == "each twice" else new
            trades += new if again == "twice" else []
    return trades


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    trades=repetitive(), reach=st.sampled_from([2, 3, 5, 50]), back=st.sampled_from([4, 9, 99]),
    width=st.sampled_from([1, 2, 4]),
    changes=st.sampled_from([2, 4, 6]), pairs=st.sampled_from([1, 3, 6]), data=st.data(),
)  # fmt: skip
def test_marks_are_those_of_the_definition(
    trades: list[int], reach: int, back: int, width: int, changes: int, pairs: int, data: st.DataObject
) -> None:
    """Marks match the definition for any pieces and any times of equal trades."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(trades)), max_size=4)))
    order = data.draw(st.permutations(range(10)))
    found = marks_of(
        trades,
        [order[each] for each in trades],
        cuts,
        reach=reach,
        back=back,
        width=width,
        changes=changes,
        pairs=pairs,
    )
    assert found == plain_marks(trades, reach, back, width, changes, pairs)


@pytest.mark.parametrize(
    ("trades", "marked"),
    [
        ("ABCD", ""),
        ("AAAAAAAAAAAA", ""),
        ("AABBC", ""),
        ("ABAB", ""),
        ("ABCABC", "345"),
        ("ABCxyzABC", "678"),
        ("ABAC..ABAC", ""),
        ("ABBC..ABC", ""),
        ("AABBCCDDEEFF", "1 3 5 7 9 11"),
        ("AABBCCDDEE", ""),
        ("AAAABBCCDDEEFF", "2 3 5 7 9 11 13"),
        ("ABABCCDEDEFGFG", "2 3 5 8 9 12 13"),
    ],
)
def test_examples(trades: str, marked: str) -> None:
    """Repeated runs of three and chains of pairs are marked; bursts of equal prints are not."""
    expected = [int(each) for each in (marked.split() if " " in marked else marked)]
    resent = Resent()
    numbers = pl.Series([ord(each) + (at if each == "." else 0) for at, each in enumerate(trades)]).hash().to_numpy()
    marks = np.concatenate([resent.add(numbers, np.zeros(len(trades), np.int64)), resent.end()])
    assert np.flatnonzero(marks).tolist() == expected


# Real days.
needs_tape = pytest.mark.skipif(not TAPES, reason="the real days are not beside the repository, in ../shared/tape")
each_tape = pytest.mark.parametrize("path", TAPES or [None], ids=lambda path: path.name if path else "none")


def day(path: Path) -> Tape:
    """Hash and event time of each trade of a real day."""
    with gzip.open(path) as file:
        rows = pl.read_csv(file.read(), infer_schema=False).with_columns(pl.all().fill_null(""))
    numbers = rows.select("ts_event_ms", "symbol", "price", "size", "conditions").hash_rows().to_numpy()
    return numbers, rows["ts_event_ms"].cast(pl.Int64).to_numpy()


def real_marks(numbers: np.ndarray[Any, Any], times: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    resent, found = Resent(), []
    for start in range(0, len(numbers), 250_000):
        found.append(resent.add(numbers[start : start + 250_000], times[start : start + 250_000]))
    return np.concatenate([*found, resent.end()])


@needs_tape
@each_tape
def test_a_real_day_is_hardly_marked(path: Path) -> None:
    """At most one row in a thousand is marked on a real day, on which a fifth of prints equal an earlier one."""
    assert real_marks(*day(path)).mean() <= 0.001


def one_by_one(tape: Tape) -> np.ndarray[Any, Any]:
    """Each trade twice."""
    return np.repeat(np.arange(len(tape[0])), 2)


def by_message(tape: Tape) -> np.ndarray[Any, Any]:
    """Each message of one to ten trades twice."""
    sizes = np.random.default_rng(1).integers(1, 11, len(tape[0]))
    pieces = np.split(np.arange(len(tape[0])), np.cumsum(sizes)[np.cumsum(sizes) < len(tape[0])])
    return np.concatenate([piece for piece in pieces for _ in range(2)])


def by_reconnect(tape: Tape) -> np.ndarray[Any, Any]:
    """Repeat the trades of the last two seconds, sixty times a day."""
    moments = np.sort(np.random.default_rng(1).choice(len(tape[0]), 60, replace=False))
    pieces, start = [], 0
    for moment in moments:
        pieces += [np.arange(start, moment), np.arange(np.searchsorted(tape[1], tape[1][moment] - 2000), moment)]
        start = moment
    return np.concatenate([*pieces, np.arange(start, len(tape[0]))])


@pytest.mark.slow
@needs_tape
@each_tape
@pytest.mark.parametrize(
    ("again", "precision"),
    [(one_by_one, 0.999), (by_message, 0.99), (by_reconnect, 0.90)],
    ids=["one by one", "by message", "by reconnect"],
)
def test_what_is_sent_again_is_marked(
    path: Path, again: Callable[[Tape], np.ndarray[Any, Any]], precision: float
) -> None:
    """At least 99 % of redelivered trades are marked, and no others than those of the day itself."""
    tape = day(path)
    places = again(tape)
    numbers, times = tape[0][places], tape[1][places]
    marked, sent = Counter(numbers[real_marks(numbers, times)].tolist()), Counter(numbers.tolist())
    sent.subtract(tape[0].tolist())
    right = sum(min(count, marked[number]) for number, count in sent.items())
    assert right >= 0.99 * sum(sent.values())
    assert right >= precision * marked.total()


# Batches.
def line(seq: int, trade: int, connection: int = 1, **changes: object) -> bytes:
    row: dict[str, Any] = {
        "connection": connection, "recv_seq": seq, "ts_recv": T + trade * MS, "ts_event": T + trade * MS,
        "symbol": "AAPL", "price": f"{100 + trade}.5", "size": "10", "conditions": "1;12",
    }  # fmt: skip
    return ",".join(str(value) for value in (row | changes).values()).encode() + b"\n"


def seal_all(sealed_batch: SealBatch, *batches: list[bytes], lane: int = 0) -> list[BatchName]:
    names = [BatchName(SESSION, lane, number) for number in range(len(batches))]
    for name, lines in zip(names, batches, strict=True):
        sealed_batch(lines, name=name)
    return names


def resent(store: Store, name: BatchName) -> list[bool]:
    """The column of a validated batch."""
    with pa.OSFile(str(store.validated / name.validated)) as file, pa.ipc.open_stream(file) as reader:
        return pl.DataFrame(reader.read_all())["resent"].to_list()


def reconnected(at_ns: int = T + 21 * MS) -> list[list[bytes]]:
    """Two batches: the second connection begins with the last trades of the first one."""
    first = [line(1 + trade, trade) for trade in range(20)]
    again = [line(1 + n, 15 + n, connection=2, ts_recv=at_ns + n) for n in range(5)]
    return [first, [*again, line(6, 30, connection=2, ts_recv=at_ns + S)]]


def test_a_batch_is_compared_with_the_minute_before(store: Store, sealed_batch: SealBatch) -> None:
    """Trades redelivered by a second connection are marked even if the originals are in the previous batch."""
    first, second = seal_all(sealed_batch, *reconnected())
    assert (split(store, first, OFF).resent, split(store, second, OFF).resent) == (0, 5)
    assert resent(store, second) == [True] * 5 + [False]


def test_short_batches_are_looked_through_up_to_a_minute(store: Store, sealed_batch: SealBatch) -> None:
    """The look-back minute may span several batches, one without valid rows; older rows do not count."""
    old = [line(1 + n, n, ts_recv=T - 61 * S) for n in range(5)]
    near = [line(6 + n, 10 + n, ts_recv=T - 59 * S) for n in range(5)]
    bad, last = [line(11, 20, ts_recv=T - S, price="x")], [line(12, 21, ts_recv=T)]
    again = [line(13 + n, n if n < 5 else n + 5, ts_recv=T + S) for n in range(10)]
    names = seal_all(sealed_batch, old, near, bad, last, again)
    assert [split(store, name, OFF).resent for name in names] == [0, 0, 0, 0, 5]
    assert resent(store, names[-1]) == [False] * 5 + [True] * 5


def test_a_run_goes_on_over_the_border(store: Store, sealed_batch: SealBatch) -> None:
    """A run that begins in the last two rows of a batch is marked from the next batch on."""
    rows = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    lines = [line(1 + n, trade, ts_recv=T + S + n) for n, trade in enumerate(rows)]
    first, second = seal_all(sealed_batch, lines[:7], lines[7:])
    assert (split(store, first, OFF).resent, split(store, second, OFF).resent) == (0, 3)


def files(store: Store) -> dict[str, bytes]:
    """Every validated file."""
    return {path.name: path.read_bytes() for path in store.validated.iterdir()}


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_the_order_of_validation_changes_nothing(store: Store, sealed_batch: SealBatch, order: tuple[int, ...]) -> None:
    """The files have the same bytes whichever batch is validated first and whatever stage earlier ones are at."""
    batches = [*reconnected(), [line(7 + n, 15 + n, connection=2, ts_recv=T + 5 * S + n) for n in range(9)]]
    names = seal_all(sealed_batch, *batches)
    shutil.copytree(store.root, store.root.parent / "other")
    other = Store(store.root.parent / "other")
    for name in names:
        split(other, name, OFF)
    expected = files(other)
    assert [read(other.validated / name.report, Report).resent for name in names] == [0, 5, 9 - 4]
    for place in order:
        split(store, names[place], OFF)
        found = files(store)
        assert {key: expected[key] for key in found} == found
        if place == order[0]:
            compress(store, names[place])  # Now its rows are in its archived file alone.
    assert len(list(store.archive.rglob("*.parquet"))) == 1


def test_a_batch_that_is_gone_gives_no_rows(store: Store, sealed_batch: SealBatch) -> None:
    """If the previous batch's file was removed, a batch is compared only with itself."""
    first, second = seal_all(sealed_batch, *reconnected())
    split(store, first, OFF)
    manifest = compress(store, first)
    (store.archive_folder("finnhub", manifest.seal.date) / str(manifest.file)).unlink()
    assert split(store, second, OFF).resent == 0


def test_a_damaged_batch_does_not_hold_up_the_next(
    store: Store, sealed_batch: SealBatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch with a damaged journal stays in place and is named; the next is validated without it."""
    first, second = seal_all(sealed_batch, *reconnected())
    (store.sealed / first.sealed).write_bytes(b"damaged")
    assert split(store, second, OFF).resent == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert (store.sealed / first.seal).exists()


def test_lanes_and_sessions_are_apart(store: Store, sealed_batch: SealBatch) -> None:
    """Only batches of the same lane come before a batch."""
    first, second = reconnected()
    seal_all(sealed_batch, first)
    name = sealed_batch(second, name=BatchName(SESSION, 1, 1))
    assert split(store, name, OFF).resent == 0


_KILLED = """
import os, signal, sys
from pathlib import Path
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.validate import split
from tasks.validate.schema import Limits
count, stop = 0, int(sys.argv[3])
def traced(frame, event, argument):
    global count
    if event == "call" and "/tasks/" in frame.f_code.co_filename:
        count += 1
        if count == stop:
            os.kill(os.getpid(), signal.SIGKILL)
sys.setprofile(traced)
split.split(Store(Path(sys.argv[1])), BatchName.parse(sys.argv[2]), Limits(None, None))
"""


@pytest.mark.parametrize("calls", [60, 150, 240])
def test_a_kill_changes_nothing(store: Store, sealed_batch: SealBatch, calls: int) -> None:
    """A validation of two batches, killed anywhere and run again, gives the same files."""
    first, second = seal_all(sealed_batch, *reconnected())
    other = Store(store.root.parent / "other")
    shutil.copytree(store.root, other.root)
    split(other, second, OFF)
    command = [sys.executable, "-c", _KILLED, str(store.root), str(second), str(calls)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=100)
    assert done.returncode == -signal.SIGKILL
    split(store, second, OFF)
    split(store, first, OFF)
    assert files(store) == files(other)
    assert not list(store.sealed.iterdir())
