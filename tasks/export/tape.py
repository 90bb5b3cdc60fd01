"""How does the archive come back as a tape, in order of receipt, whatever lanes its trades travelled in?

Session after session. A session of one lane is its batches in order. With several lanes the trades of a window of
`recv_seq` are fetched from every batch that has some and sorted, so that memory is bounded by the window, whatever
the number of lanes and files. Where a batch's own file was removed, its rows come from the merged file of its day.
"""

import gzip
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import IO, cast

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from tasks.archive.catalog import Catalog
from tasks.archive.day_files import unmerged
from tasks.archive.encodings import read_groups
from tasks.archive.side_records import held_by
from tasks.errors import CorruptionError, TerminalError
from tasks.records.manifest import Manifest, read
from tasks.records.names import BatchName
from tasks.records.trade import NS_PER_MS, TAPE_COLUMNS
from tasks.storage.store import Store, begun, publish, sha256_of, unfinished

_WINDOW_TRADES = 1_000_000
_ORDER = ["connection", "recv_seq"]
_FETCHED = [*_ORDER, "ts_event", "symbol", "price", "size", "conditions"]


def export(
    store: Store, out: Path, date: str | None, note: Callable[[int, int], None] = lambda _done, _total: None
) -> int:
    """Write the archived trades, of one `date` (YYYY-MM-DD) or all, to `out` as a tape, and say how many.

    `note` is told how many are written, and of how many.

    Gzip'd where the name ends in `.gz`. `out` is replaced when the tape is whole, and untouched until then. Raises
    TerminalError where nothing is archived, some of it is in the bucket alone or the place cannot be written, and
    CorruptionError where an archived file is not what its manifest says.
    """
    archived = _archived(store, date)
    if not archived:
        day = f" for {date}" if date else ""
        raise TerminalError(f"{store.archive}: nothing is archived{day}; `tape archive` archives what waits")
    held = _held(store, archived)
    rows, expected = 0, sum(manifest.rows for _, manifest in archived)
    with _writing(out) as file:
        file.write(",".join(TAPE_COLUMNS).encode() + b"\n")
        for trades in _in_order_of_receipt(store, held):
            _tape_rows(trades).write_csv(file, include_header=False, quote_style="never")
            rows += len(trades)
            note(rows, expected)
        if rows != expected:
            raise CorruptionError(
                f"{store.archive}: {rows:,} trades found, manifests say {expected:,}; run `tape verify`"
            )
    return rows


# A manifest beside its path, and beside the file with its rows: the batch's own, or that of its day.
Archived = list[tuple[Path, Manifest]]


def _archived(store: Store, date: str | None) -> Archived:
    return [(path, read(path, Manifest)) for path in store.manifests(date=date or "*")]


def _held(store: Store, archived: Archived) -> Archived:
    """Where the rows of each batch are, every file beside the SHA-256 that is said of it."""
    catalog, held, expected = Catalog(store), [], {}
    for path, manifest in archived:
        if manifest.file is None:
            continue
        file = catalog.rows_of(path, manifest)
        held.append((file, manifest))
        if file.name == manifest.file:
            expected[file] = manifest.sha256
        else:
            expected[file] = held_by(store.day_record(manifest.seal.feed, manifest.seal.date))[0].sha256
    for file, sha256 in expected.items():
        if sha256_of(file) != sha256:
            raise CorruptionError(f"{file}: its SHA-256 is not that of its record; restore it from a copy")
    return held


def _in_order_of_receipt(store: Store, held: Archived) -> Iterator[pa.Table]:
    for _, of_session in groupby(held, key=lambda pair: BatchName.parse(pair[1].batch).session):
        with _apart(store, list(of_session)) as batches:
            lanes = {BatchName.parse(manifest.batch).lane for _, manifest in batches}
            if len(lanes) > 1:
                yield from _merged(batches)
                continue
            for path, _ in batches:
                yield from read_groups(path)


@contextmanager
def _apart(store: Store, held: Archived) -> Iterator[Archived]:
    """Each batch beside a file of its own; what is in the file of a day is laid into a folder for the time being."""
    days: dict[Path, list[str]] = {}
    for file, manifest in held:
        if file.name != manifest.file:
            days.setdefault(file, []).append(manifest.batch)
    if not days:
        yield held
        return
    cache = store.root / "cache"
    cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="export-", dir=cache) as folder:
        apart: dict[str, Path] = {}
        for day, batches in days.items():
            apart |= unmerged(day, batches, Path(folder))
        yield [(apart.get(manifest.batch, file), manifest) for file, manifest in held]


def _merged(batches: Archived) -> Iterator[pa.Table]:
    """The trades of all lanes of one session by (connection, recv_seq), window by window."""
    ranges = [
        (row.connection, row.first_seq, row.last_seq, path) for path, each in batches for row in each.seal.connections
    ]
    for connection in sorted({row[0] for row in ranges}):
        here = [row[1:] for row in ranges if row[0] == connection]
        for start in range(min(row[0] for row in here), max(row[1] for row in here) + 1, _WINDOW_TRADES):
            stop = start + _WINDOW_TRADES
            paths = [path for first, last, path in here if first < stop and last >= start]
            parts = [_fetch(path, connection, start, stop) for path in paths]
            if parts:
                yield pa.concat_tables(parts).sort_by([(name, "ascending") for name in _ORDER])


def _fetch(path: Path, connection: int, start: int, stop: int) -> pa.Table:
    """Those trades of a batch; its groups are read and left again one by one."""
    found = [
        table.filter(
            (pc.field("connection") == connection) & (pc.field("recv_seq") >= start) & (pc.field("recv_seq") < stop)
        )
        for table in read_groups(path)
    ]
    return pa.concat_tables(found).select(_FETCHED)


def _tape_rows(trades: pa.Table) -> pl.DataFrame:
    frame = cast(pl.DataFrame, pl.from_arrow(trades.select(_FETCHED)))
    milliseconds = pl.col("ts_event").to_physical() // NS_PER_MS
    return frame.select(milliseconds.alias(TAPE_COLUMNS[0]), *TAPE_COLUMNS[1:])


@contextmanager
def _writing(out: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which becomes `out` at the end of the block and vanishes where the block fails.

    A pipe or a device is written to as it is, a link stays one: what it points to is written.
    """
    if out.exists() and not out.is_file():
        with _straight_to(out) as file:
            yield file
        return
    out = out.resolve() if out.is_symlink() else out
    beside = unfinished(out)
    try:
        with begun(out).open("wb") as raw:
            if out.name.endswith(".gz"):
                # Without name and time: two exports of one archive are equal.
                with gzip.GzipFile("", "wb", 6, raw, mtime=0) as zipped:
                    yield cast(IO[bytes], zipped)
            else:
                yield raw
        publish(out)
    except OSError as error:
        raise TerminalError(f"{out}: cannot be written ({error}); choose another place") from error
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def _straight_to(out: Path) -> Iterator[IO[bytes]]:
    """What is no file: a pipe, a terminal, a device. A reader that goes away ends the writing, and is no fault."""
    try:
        with out.open("wb", buffering=1 << 20) as raw:
            if out.name.endswith(".gz"):
                with gzip.GzipFile("", "wb", 6, raw, mtime=0) as zipped:
                    yield cast(IO[bytes], zipped)
            else:
                yield raw
    except BrokenPipeError:
        raise
    except OSError as error:
        raise TerminalError(f"{out}: cannot be written ({error.strerror}); choose another place") from error
