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

from tasks.archive.columns import from_file
from tasks.archive.dictionary_encoder import DictionaryEncoder, text_array
from tasks.archive.encodings import Encoding, check_groups, writing
from tasks.archive.schema import (
    CODED,
    FILE_SCHEMA,
    SCHEMA,
    TEXTS,
    TIMESTAMP,
    completed,
    dictionaries,
    field,
    known_schemas,
)
from tasks.archive.sorting import LIMITS, SortLimits, external_sort
from tasks.errors import CorruptionError
from tasks.records.names import BatchName

_BATCH = field("batch", CODED, "text", "recorder", "the batch that the trade was recorded in")
DAY_SCHEMA = FILE_SCHEMA.append(_BATCH)
# Before format 2.
_OLD_DAY_SCHEMA = SCHEMA.append(_BATCH.with_type(pa.large_string()))
# Batch after batch, each in its own order; `place` is the batch's index.
ROW = ("place", "connection", "recv_seq")


def unmerged(day_file: Path, batches: Collection[str], folder: Path, limits: SortLimits = LIMITS) -> dict[str, Path]:
    """Write each of these batches, in its own row order, to a file in `folder` that `encodings.read_groups` reads.

    Makes one pass over the day's file and verifies every page's checksum; memory use does not depend on the day's
    size. Raises FileNotFoundError, CorruptionError if the file is damaged or has no row of one of the batches, and
    OSError if `folder` cannot be written.
    """
    names, codes = sorted(batches), DictionaryEncoder()
    files = {name: folder / f"{name}.parquet" for name in names}
    ordered = rows_in_order(day_file, names, folder / "rows", codes, limits)
    parts = (part for rows in ordered for part in rows.partition_by("place", maintain_order=True))
    for place, of_batch in groupby(parts, key=lambda part: int(part["place"][0])):
        facts = {"title": "trades as received", "batch": names[place]}
        session = BatchName.parse(names[place]).session
        with writing(files[names[place]], Encoding(), facts, session) as write:
            for part in of_batch:
                write(codes.decode(part))
    missing = [name for name, file in files.items() if not file.exists()]
    if missing:
        raise CorruptionError(f"{day_file}: holds no row of {missing[0]}; run `tape verify`")
    return files


def rows_in_order(
    day_file: Path, batches: Sequence[str], folder: Path, codes: DictionaryEncoder, limits: SortLimits = LIMITS
) -> Iterator[pl.DataFrame]:
    """Yield the dictionary-encoded rows of these batches, batch after batch, each in its own order.

    The column `place` is the batch's index. Rows that do not fit in memory are spilled to `folder`, which is emptied
    first and removed at the end. Raises the same errors as `unmerged`, except for a batch without rows.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield from external_sort(_rows_of(day_file, batches, codes), ROW, folder, limits)
    shutil.rmtree(folder)


def day_groups(day_file: Path) -> Iterator[pa.Table]:
    """Yield the row groups of a day's file: columns of `CODED_SCHEMA`'s types, and `batch`.

    Verifies checksums. Raises FileNotFoundError, and CorruptionError if the file is damaged or has other columns.
    """
    with _open(day_file) as file:
        for group in range(file.num_row_groups):
            table = completed(from_file(file.read_row_group(group)))
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
        footer = pq.read_metadata(day_file)
        known = known_schemas(DAY_SCHEMA, _OLD_DAY_SCHEMA, footer.metadata, day_file)
        if not any(footer.schema.to_arrow_schema().equals(each) for each in known):
            raise CorruptionError(f"{day_file}: its columns are not those of a day's file; restore it from a copy")
        texts = [*(dictionaries(footer) if "session" in known[0].names else TEXTS), "batch"]
        with pq.ParquetFile(day_file, metadata=footer, page_checksum_verification=True, read_dictionary=texts) as file:
            check_groups(file, day_file)
            yield file
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())[:200]
        raise CorruptionError(f"{day_file}: cannot be read ({said}); restore it from a copy") from error
