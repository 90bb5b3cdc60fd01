"""The rows of a batch, wherever it is: sealed, validated, archived in any encoding, or in its day's file."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from tape.dashboard.journal_tail import COLUMNS, parsed
from tasks.archive.catalog import Catalog
from tasks.archive.day_files import day_groups
from tasks.archive.encodings import read_groups
from tasks.archive.line_blocks import line_blocks
from tasks.errors import TerminalError
from tasks.records.manifest import Manifest, Report, read
from tasks.records.names import BatchName
from tasks.storage.store import Store

_BLOCK_BYTES = 4 << 20
# A batch may move on while it is being opened; it is then found at its next place.
_LOOKS = 3


def batch_rows(store: Store, name: BatchName) -> Iterator[pl.DataFrame]:
    """Yield the rows of a batch in bounded pieces; of one that is validated already, the valid ones.

    Raises TerminalError if only the bucket has them, and CorruptionError if a file cannot be read.
    """
    for _ in range(_LOOKS):
        for read_from in (_sealed, _validated, _archived):
            with suppress(FileNotFoundError):
                return read_from(store, name)
    raise TerminalError(f"{name}: has no file in {store.root}; restore it from a copy")


def rows_of(store: Store, names: Iterable[BatchName]) -> Iterator[pl.DataFrame]:
    """Yield the rows of these batches in order; a day's file is read once for all that are in it. Raises the same."""
    in_days: dict[Path, list[BatchName]] = {}
    for name in names:
        file = None
        with suppress(FileNotFoundError):
            file = _archived_file(store, name)
        if file is not None and file.is_relative_to(store.days):
            in_days.setdefault(file, []).append(name)
        else:
            yield from batch_rows(store, name)
    for day_file, some in in_days.items():
        yield from _of_day(day_file, some)


def _sealed(store: Store, name: BatchName) -> Iterator[pl.DataFrame]:
    file = (store.sealed / name.sealed).open("rb")

    def rows() -> Iterator[pl.DataFrame]:
        with file:
            columns = tuple(file.readline().decode("utf-8", "replace").rstrip("\n").split(","))
            for lines in line_blocks(file, _BLOCK_BYTES):
                yield parsed(lines, columns)

    return rows()


def _validated(store: Store, name: BatchName) -> Iterator[pl.DataFrame]:
    if not read(store.validated / name.report, Report).valid:
        return iter(())
    file = (store.validated / name.validated).open("rb")

    def rows() -> Iterator[pl.DataFrame]:
        with file, pa.ipc.open_stream(file) as batches:
            for batch in batches:
                yield _frame(pa.Table.from_batches([batch]))

    return rows()


def _archived(store: Store, name: BatchName) -> Iterator[pl.DataFrame]:
    file = _archived_file(store, name)
    if file is None:
        return iter(())
    return _of_day(file, [name]) if file.is_relative_to(store.days) else map(_frame, read_groups(file))


def _archived_file(store: Store, name: BatchName) -> Path | None:
    """Return the file of a batch's rows, or its day's; None if it has no row. Raises FileNotFoundError."""
    record = store.manifest_of(name)
    if record is None:
        raise FileNotFoundError(name)
    manifest = read(record, Manifest)
    return Catalog(store).rows_of(record, manifest) if manifest.rows else None


def _of_day(day_file: Path, names: Collection[BatchName]) -> Iterator[pl.DataFrame]:
    wanted = pa.array([str(name) for name in names], pa.large_string())
    for table in day_groups(day_file):
        yield _frame(table.filter(pc.is_in(table["batch"].cast(pa.large_string()), wanted)))


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.DataFrame(pl.from_arrow(table.select(COLUMNS)))
    times, texts = pl.col(COLUMNS[:2]), pl.col(COLUMNS[2:])
    return frame.select(times.cast(pl.Int64), texts.cast(pl.String))
