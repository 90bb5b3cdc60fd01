"""Writes the archive back as a tape, in order of receipt, session by session.

A session with one lane is its batches in order. With several lanes, the trades of a window of `recv_seq` are fetched
from every batch that has some and sorted, so that memory is bounded by the window, whatever the number of lanes and
files. If a batch's own file was removed, its rows come from the merged file of its day.
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
from tasks.archive.side_records import day_and_manifests
from tasks.errors import CorruptionError, TerminalError
from tasks.records.manifest import Manifest, read
from tasks.records.names import BatchName
from tasks.records.trade import NS_PER_MS, TAPE_COLUMNS
from tasks.storage.store import Store, begun, publish, sha256_of, unfinished

_WINDOW_TRADES = 1_000_000
_ORDER = ["connection", "recv_seq"]
_FETCHED = [*_ORDER, "ts_event", "symbol", "price", "size", "conditions"]


def export(
    store: Store,
    out: Path,
    date: str | None,
    note: Callable[[int, int], None] = lambda _done, _total: None,
    window_trades: int = _WINDOW_TRADES,
    feed: str | None = None,
) -> int:
    """Write the archived trades of one `date` (YYYY-MM-DD) or all, of one feed or all, to `out` as a tape.

    Returns how many.

    `note` is called with how many are written, and the total. The tape is gzipped if the name ends in `.gz`. `out` is
    replaced when the tape is complete, and untouched until then. Raises TerminalError if nothing is archived, if some
    of it is only in the bucket, or if the place is not writable, and CorruptionError if an archived file is not what
    its manifest says.
    """
    archived = _archived(store, feed, date)
    if not archived:
        what = (f" for {date}" if date else "") + (f" from {feed}" if feed else "")
        raise TerminalError(f"{store.archive}: nothing is archived{what}; run `tape archive` if batches are waiting")
    held = _held(store, archived)
    rows, expected = 0, sum(manifest.rows for _, manifest in archived)
    with _writing(out) as file:
        file.write(",".join(TAPE_COLUMNS).encode() + b"\n")
        for trades in _in_order_of_receipt(store, held, window_trades):
            _tape_rows(trades).write_csv(file, include_header=False, quote_style="never")
            rows += len(trades)
            note(rows, expected)
        if rows != expected:
            raise CorruptionError(
                f"{store.archive}: {rows:,} trades found, manifests say {expected:,}; run `tape verify`"
            )
    return rows


# Pairs of a path and a manifest; the path is the manifest's, or that of the file with its rows.
Archived = list[tuple[Path, Manifest]]


def _archived(store: Store, feed: str | None, date: str | None) -> Archived:
    return [(path, read(path, Manifest)) for path in store.manifests(feed or "*", date or "*")]


def _held(store: Store, archived: Archived) -> Archived:
    """Return the file with each batch's rows, after checking every file's SHA-256."""
    catalog, held, expected = Catalog(store), [], {}
    for path, manifest in archived:
        if manifest.file is None:
            continue
        file = catalog.rows_of(path, manifest)
        held.append((file, manifest))
        if file.name == manifest.file:
            expected[file] = manifest.sha256
        else:
            expected[file] = day_and_manifests(store.day_record(manifest.seal.feed, manifest.seal.date))[0].sha256
    for file, sha256 in expected.items():
        if sha256_of(file) != sha256:
            raise CorruptionError(f"{file}: its SHA-256 is not that of its record; restore it from a copy")
    return held


def _in_order_of_receipt(store: Store, held: Archived, window_trades: int) -> Iterator[pa.Table]:
    for _, of_session in groupby(held, key=lambda pair: BatchName.parse(pair[1].batch).session):
        with _apart(store, list(of_session)) as batches:
            lanes = {BatchName.parse(manifest.batch).lane for _, manifest in batches}
            if len(lanes) > 1:
                yield from _merged(batches, window_trades)
                continue
            for path, _ in batches:
                yield from read_groups(path)


@contextmanager
def _apart(store: Store, held: Archived) -> Iterator[Archived]:
    """Pair each batch with a file of its own; rows in a day file are extracted into a temporary folder."""
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


def _merged(batches: Archived, window_trades: int) -> Iterator[pa.Table]:
    """Yield the trades of all lanes of a session by (connection, recv_seq), window by window."""
    ranges = [
        (row.connection, row.first_seq, row.last_seq, path) for path, each in batches for row in each.seal.connections
    ]
    for connection in sorted({row[0] for row in ranges}):
        here = [row[1:] for row in ranges if row[0] == connection]
        for start in range(min(row[0] for row in here), max(row[1] for row in here) + 1, window_trades):
            stop = start + window_trades
            paths = [path for first, last, path in here if first < stop and last >= start]
            parts = [_fetch(path, connection, start, stop) for path in paths]
            if parts:
                yield pa.concat_tables(parts).sort_by([(name, "ascending") for name in _ORDER])


def _fetch(path: Path, connection: int, start: int, stop: int) -> pa.Table:
    """Fetch these trades from a batch, reading one row group at a time."""
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
    """Open a temporary file that becomes `out` at the end of the block, or is removed if the block fails.

    A pipe or device is written to directly. For a link, the file it points to is written.
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
                # Without name and time, so that two exports of the same archive are equal.
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
    """Write directly to a pipe, terminal, or device. A reader that goes away ends the writing without an error."""
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
