"""Recovers the rows of single batches from the merged file of their day."""

import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.archive.dictionary_encoder import DictionaryEncoder, text_array
from tasks.archive.encodings import Encoding, check_groups, writing
from tasks.archive.schema import SCHEMA, TEXTS, TIMESTAMP, before_resent, completed, field, in_ms
from tasks.archive.sorting import external_sort
from tasks.errors import CorruptionError

DAY_SCHEMA = SCHEMA.append(
    field("batch", pa.large_string(), "text", "recorder", "the batch that the trade was recorded in")
)
# Batch after batch, each in its own order; `place` is the batch's index.
ROW = ("place", "connection", "recv_seq")


def unmerged(day_file: Path, batches: Collection[str], folder: Path) -> dict[str, Path]:
    """Write each of these batches, in its own row order, to a file in `folder` that `encodings.read_groups` reads.

    Makes one pass over the day's file and verifies every page's checksum; memory use does not depend on the day's
    size. Raises FileNotFoundError, CorruptionError if the file is damaged or has no row of one of the batches, and
    OSError if `folder` cannot be written.
    """
    names, codes = sorted(batches), DictionaryEncoder()
    files = {name: folder / f"{name}.parquet" for name in names}
    ordered = rows_in_order(day_file, names, folder / "rows", codes)
    parts = (part for rows in ordered for part in rows.partition_by("place", maintain_order=True))
    for place, of_batch in groupby(parts, key=lambda part: int(part["place"][0])):
        facts = {"title": "trades as received", "batch": names[place]}
        with writing(files[names[place]], Encoding(), facts) as write:
            for part in of_batch:
                write(codes.decode(part))
    missing = [name for name, file in files.items() if not file.exists()]
    if missing:
        raise CorruptionError(f"{day_file}: holds no row of {missing[0]}; run `tape verify`")
    return files


def rows_in_order(
    day_file: Path, batches: Sequence[str], folder: Path, codes: DictionaryEncoder
) -> Iterator[pl.DataFrame]:
    """Yield the dictionary-encoded rows of these batches, batch after batch, each in its own order.

    The column `place` is the batch's index. Rows that do not fit in memory are spilled to `folder`, which is emptied
    first and removed at the end. Raises the same errors as `unmerged`, except for a batch without rows.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield from external_sort(_rows_of(day_file, batches, codes), ROW, folder)
    shutil.rmtree(folder)


def day_groups(day_file: Path) -> Iterator[pa.Table]:
    """Yield the row groups of a day's file in `DAY_SCHEMA`: texts as dictionaries, event times in ns.

    Verifies checksums. Raises FileNotFoundError, and CorruptionError if the file is damaged or has other columns.
    """
    with _open(day_file) as file:
        for group in range(file.num_row_groups):
            table = completed(file.read_row_group(group))
            at = table.schema.get_field_index("ts_event")
            yield table.set_column(at, "ts_event", table["ts_event"].cast(TIMESTAMP))


def _rows_of(day_file: Path, batches: Sequence[str], codes: DictionaryEncoder) -> Iterator[pl.DataFrame]:
    """Yield the rows of these batches, each row with the index of its batch."""
    names = text_array(batches)
    for table in day_groups(day_file):
        batch = table["batch"].combine_chunks()
        places = pc.index_in(batch.dictionary.cast(pa.large_string()), names).take(batch.indices)
        rows = codes.encode(table.drop_columns("batch"))
        yield rows.with_columns(pl.Series("place", places, pl.Int32)).drop_nulls("place")


@contextmanager
def _open(day_file: Path) -> Iterator[pq.ParquetFile]:
    try:
        columns = pq.read_schema(day_file)
        known = (DAY_SCHEMA, in_ms(DAY_SCHEMA))
        if not any(columns.equals(each) for each in (*known, *map(before_resent, known))):
            raise CorruptionError(f"{day_file}: its columns are not those of a day's file; restore it from a copy")
        texts = [*TEXTS, "batch"]
        with pq.ParquetFile(day_file, page_checksum_verification=True, read_dictionary=texts) as file:
            check_groups(file, day_file)
            yield file
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())[:200]
        raise CorruptionError(f"{day_file}: cannot be read ({said}); restore it from a copy") from error
