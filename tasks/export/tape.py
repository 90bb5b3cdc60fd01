"""How does the archive come back as a tape, in order of receipt, whatever lanes its trades travelled in?

Session after session. A session of one lane is its batches in order. With several lanes the trades of a window of
`recv_seq` are fetched from every batch that has some and sorted, so that memory is bounded by the window, whatever
the number of lanes and files.
"""

import gzip
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import IO, cast

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from tasks.archive import read_groups
from tasks.batch import BatchName
from tasks.errors import CorruptionError, TerminalError
from tasks.manifest import Manifest, read
from tasks.store import Store, publish, unfinished
from tasks.trade import NS_PER_MS, TAPE_COLUMNS

_WINDOW_TRADES = 1_000_000
_ORDER = ["connection", "recv_seq"]
_FETCHED = [*_ORDER, "ts_event", "symbol", "price", "size", "conditions"]


def export(store: Store, out: Path, date: str | None) -> int:
    """Write the archived trades, of one `date` (YYYY-MM-DD) or all, to `out` as a tape, and say how many.

    Gzip'd where the name ends in `.gz`. `out` is replaced when the tape is whole, and untouched until then. Raises
    TerminalError where nothing is archived or the place cannot be written, and CorruptionError where an archived file
    is not what its manifest says.
    """
    archived = _archived(store, date)
    if not archived:
        day = f" for {date}" if date else ""
        raise TerminalError(f"{store.archive}: nothing is archived{day}; `tape archive` archives what waits")
    for path, manifest in archived:
        _check(path, manifest)
    rows = 0
    with _writing(out) as file:
        file.write(",".join(TAPE_COLUMNS).encode() + b"\n")
        for trades in _in_order_of_receipt(archived):
            _tape_rows(trades).write_csv(file, include_header=False, quote_style="never")
            rows += len(trades)
        expected = sum(manifest.rows for _, manifest in archived)
        if rows != expected:
            raise CorruptionError(
                f"{store.archive}: {rows:,} trades found, manifests say {expected:,}; run `tape verify`"
            )
    return rows


Archived = list[tuple[Path, Manifest]]


def _archived(store: Store, date: str | None) -> Archived:
    found = [(path, read(path, Manifest)) for path in store.manifests()]
    return [(path, manifest) for path, manifest in found if date in (None, manifest.seal.date)]


def _check(path: Path, manifest: Manifest) -> None:
    if manifest.file is None:
        return
    archived = path.with_name(manifest.file)
    try:
        with archived.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise CorruptionError(f"{archived}: is missing beside its manifest; restore it from a copy") from error
    if sha256 != manifest.sha256:
        raise CorruptionError(f"{archived}: its SHA-256 is not that of its manifest; restore it from a copy")


def _in_order_of_receipt(archived: Archived) -> Iterator[pa.Table]:
    for _, of_session in groupby(archived, key=lambda pair: BatchName.parse(pair[1].batch).session):
        batches = [(path.with_name(manifest.file), manifest) for path, manifest in of_session if manifest.file]
        lanes = {BatchName.parse(manifest.batch).lane for _, manifest in batches}
        if len(lanes) > 1:
            yield from _merged(batches)
            continue
        for path, _ in batches:
            yield from read_groups(path)


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
    """A file to write to, which becomes `out` at the end of the block and vanishes where the block fails."""
    beside = unfinished(out)
    try:
        with beside.open("wb") as raw:
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
