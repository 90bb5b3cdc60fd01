"""The rows of a batch, wherever it is: sealed, validated, archived in any encoding, or in its day's file."""

from collections.abc import Iterator
from contextlib import suppress

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
    record = store.manifest_of(name)
    if record is None:
        raise FileNotFoundError(name)
    manifest = read(record, Manifest)
    if not manifest.rows:
        return iter(())
    file = Catalog(store).rows_of(record, manifest)
    if file.name == manifest.file:
        return (_frame(table) for table in read_groups(file))
    of_batch = pa.scalar(str(name), pa.large_string())
    return (
        _frame(table.filter(pc.equal(table["batch"].cast(pa.large_string()), of_batch))) for table in day_groups(file)
    )


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.DataFrame(pl.from_arrow(table.select(COLUMNS)))
    times, texts = pl.col(COLUMNS[:2]), pl.col(COLUMNS[2:])
    return frame.select(times.cast(pl.Int64), texts.cast(pl.String))
