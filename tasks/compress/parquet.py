"""Writes a validated batch to the archive and compares it value by value before anything is removed.

The step can be killed at any instruction and run again: it writes the same bytes. Once the manifest exists, it only
removes the validated files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from tasks.archive.encodings import Encoding, read_groups, writing
from tasks.archive.schema import CODED_SCHEMA, TEXTS, completed
from tasks.errors import CorruptionError, TerminalError
from tasks.prefetch import prefetch
from tasks.records.manifest import SOFTWARE, Manifest, Report, Seal, encode, read
from tasks.records.names import BatchName
from tasks.storage.store import Store, at_work_in, begun, publish, sha256_of, sync, unfinished, write_whole

_PLAIN = Encoding()
_NO_TIME = np.iinfo(np.int64)


def compress(store: Store, name: BatchName, encoding: Encoding = _PLAIN) -> Manifest:
    """Archive a validated batch and return its manifest; a batch without valid rows gets only a manifest.

    Raises CorruptionError, and removes nothing, if the file read back differs or the batch is not in order;
    TerminalError if there is no such batch; and TransientError if the disk is full or gone.
    """
    with at_work_in(store.root), store.prepare().locked(name):
        done = store.manifest_of(name)
        manifest = read(done, Manifest) if done is not None else _archive(store, name, encoding)
        # The report is removed last: while it exists, the batch is listed and this step is run again.
        for path in (store.validated / name.validated, store.validated / name.seal, store.validated / name.report):
            path.unlink(missing_ok=True)
            sync(store.validated)
        return manifest


def _archive(store: Store, name: BatchName, encoding: Encoding) -> Manifest:
    seal, report = _records(store, name)
    folder = store.archive_folder(seal.feed, seal.date)
    folder.mkdir(parents=True, exist_ok=True)
    for made in (folder.parent.parent, folder.parent):
        sync(made)
    archived = folder / name.archived_as(encoding.format)
    for path in folder.glob(f"{name}.*"):
        if path != archived:
            path.unlink()  # Left by a killed run with another format.
    manifest = _manifest(name, seal, report, store.validated / name.validated, archived, encoding)
    write_whole(folder / name.manifest, encode(manifest))
    return manifest


def _records(store: Store, name: BatchName) -> tuple[Seal, Report]:
    try:
        return read(store.validated / name.seal, Seal), read(store.validated / name.report, Report)
    except FileNotFoundError as error:
        raise TerminalError(f"{error.filename}: no such validated batch; look for it in {store.root}") from error


def _manifest(
    name: BatchName, seal: Seal, report: Report, validated: Path, archived: Path, encoding: Encoding
) -> Manifest:
    times = _Times()
    digest, size = "", 0
    facts = {
        "title": "trades as received", "feed": seal.feed, "date": seal.date, "session": name.session,
        "batch": str(name), "software": SOFTWARE,
    }  # fmt: skip
    if report.valid:
        _check(validated, report)  # First, because a damaged Arrow file may crash the process.
        with _removed_on_failure(unfinished(archived)):
            _write(facts, encoding, name.session, validated, begun(archived), times)
            _compare(validated, unfinished(archived), report, encoding.rows_per_group)
            digest = sha256_of(unfinished(archived))
        size = unfinished(archived).stat().st_size
        publish(archived)
    return Manifest(
        batch=str(name),
        file=archived.name if report.valid else None,
        layout=encoding.name,
        software=SOFTWARE,
        rows=report.valid,
        bytes=size,
        sha256=digest,
        first_event_ns=times.first("ts_event"),
        last_event_ns=times.last("ts_event"),
        first_recv_ns=times.first("ts_recv"),
        last_recv_ns=times.last("ts_recv"),
        seal=seal,
        report=report,
    )


@contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _check(validated: Path, report: Report) -> None:
    with _reading(validated):
        sha256 = sha256_of(validated)
    if sha256 != report.validated_sha256:
        raise CorruptionError(f"{validated}: does not match its report; split the batch again from a copy")


def _write(
    facts: dict[str, str], encoding: Encoding, session: str, validated: Path, target: Path, times: "_Times"
) -> None:
    """Write the file in row groups of about a million rows, and record its first and last times."""
    last = (0, 0)
    with writing(target, encoding, facts, session) as write:
        for table in prefetch(_validated(validated, encoding.rows_per_group)):
            last = _in_order(table, last, validated)
            times.note(table)
            write(table)


def _compare(validated: Path, archived: Path, report: Report, rows_per_group: int) -> None:
    """Read the file back, verifying checksums, and compare it with its source."""
    rows = 0
    pieces = prefetch(_validated(validated, rows_per_group))
    for ours, theirs in side_by_side(pieces, prefetch(read_groups(archived, coded=True))):
        rows += len(theirs)
        if len(ours) != len(theirs) or not all(_equal(theirs[name], ours[name]) for name in CODED_SCHEMA.names):
            raise CorruptionError(f"{archived}: differs from {validated} before row {rows:,}; check memory and disk")
    if rows != report.valid:
        raise CorruptionError(f"{validated}: holds {rows:,} rows, its report says {report.valid:,}; restore both")


def side_by_side(left: Iterator[pa.Table], right: Iterator[pa.Table]) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield both series in pieces of equal lengths; if one ends first, the other's rest is paired with empty tables."""
    a, b = next(left, None), next(right, None)
    while a is not None and b is not None:
        rows = min(len(a), len(b))
        yield (a, b) if len(a) == len(b) else (a[:rows], b[:rows])
        a = a[rows:] if len(a) > rows else next(left, None)
        b = b[rows:] if len(b) > rows else next(right, None)
    rest = a if a is not None else b
    if rest is not None:
        yield (rest, rest[:0]) if a is not None else (rest[:0], rest)


def _equal(theirs: pa.ChunkedArray, ours: pa.ChunkedArray) -> bool:
    """Return whether two columns are equal; texts with the same dictionary are compared by their codes."""
    if not pa.types.is_dictionary(ours.type):
        return bool(theirs.equals(ours))
    if theirs.num_chunks == ours.num_chunks == 1:
        left, right = theirs.chunk(0), ours.chunk(0)
        # The place of each of their texts among ours, null if it is none of ours: then no row may have it.
        places = pc.index_in(left.dictionary.cast(pa.large_string()), right.dictionary)
        return bool(left.null_count == 0 and places.take(left.indices).equals(right.indices))
    return bool(theirs.cast(pa.large_string()).equals(ours.cast(pa.large_string())))


def _validated(path: Path, rows: int) -> Iterator[pa.Table]:
    """Yield the rows of the IPC stream in pieces of at least `rows` rows.

    It is read, not mapped, since mapped pages count as memory. Each text column is one chunk with one dictionary, which
    the Parquet writer requires. Numbers are not copied.
    """
    with _reading(path), pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        batches: list[pa.RecordBatch] = []
        for batch in reader:
            batches.append(batch)
            if sum(map(len, batches)) >= rows:
                yield _one_dictionary(batches)
                batches = []
        if batches:
            yield _one_dictionary(batches)


def _one_dictionary(batches: list[pa.RecordBatch]) -> pa.Table:
    table = pa.Table.from_batches(batches)
    if table.schema != CODED_SCHEMA:
        table = completed(table).select(CODED_SCHEMA.names).cast(CODED_SCHEMA)
    for name in TEXTS if len(batches) > 1 else ():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.field(place), pa.chunked_array([table[name].combine_chunks()]))
    return table


def _in_order(table: pa.Table, last: tuple[int, int], path: Path) -> tuple[int, int]:
    """Return the last (connection, recv_seq). Raises CorruptionError if rows are out of order."""
    connection, seq = (_values(table[name]) for name in ("connection", "recv_seq"))
    follows = (int(connection[0]), int(seq[0])) > last
    risen = (connection[1:] > connection[:-1]) | ((connection[1:] == connection[:-1]) & (seq[1:] > seq[:-1]))
    if not (follows and risen.all()):
        raise CorruptionError(f"{path}: its rows are not in order of receipt; split the batch again from a copy")
    return int(connection[-1]), int(seq[-1])


def _values(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the integers of a column, converted by polars: pyarrow would import pandas, which doubles the CPU time."""
    return pl.Series(column).to_numpy()


class _Times:
    """The first and last times of tables, in UTC ns."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}
        self._last: dict[str, int] = {}

    def note(self, table: pa.Table) -> None:
        for name in ("ts_event", "ts_recv"):
            values = _values(table[name].cast(pa.int64()))
            self._first[name] = min(int(values.min()), self._first.get(name, _NO_TIME.max))
            self._last[name] = max(int(values.max()), self._last.get(name, _NO_TIME.min))

    def first(self, name: str) -> int | None:
        return self._first.get(name)

    def last(self, name: str) -> int | None:
        return self._last.get(name)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise TerminalError(f"{path}: is missing beside its report; split the batch again from a copy") from error
    except (pa.ArrowException, OSError) as error:
        raise CorruptionError(f"{path}: cannot be read ({error}); split the batch again from a copy") from error
