"""How do the rows of archived batches come back from the merged file of their day?"""

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
# A batch's own order, batch after batch; `place` is the number of the batch.
ROW = ("place", "connection", "recv_seq")


def unmerged(day_file: Path, batches: Collection[str], folder: Path) -> dict[str, Path]:
    """The rows of these batches, each in its own order, as files in `folder` that `forms.read_groups` reads.

    One pass over the day's file, every page's checksum verified; memory is bounded, whatever the day's size. Raises
    FileNotFoundError, CorruptionError where the file is damaged or has no row of one of them, and OSError where
    `folder` cannot be written.
    """
    names, codes = sorted(batches), DictionaryEncoder()
    files = {name: folder / f"{name}.parquet" for name in names}
    ordered = rows_in_order(day_file, names, folder / "rows", codes)
    parts = (part for rows in ordered for part in rows.partition_by("place", maintain_order=True))
    for place, of_batch in groupby(parts, key=lambda part: int(part["place"][0])):
        facts = {"title": "trades as received", "batch": names[place]}
        with writing(files[names[place]], Encoding(), facts) as write:
            for part in of_batch:
                write(codes.table(part))
    missing = [name for name, file in files.items() if not file.exists()]
    if missing:
        raise CorruptionError(f"{day_file}: holds no row of {missing[0]}; run `tape verify`")
    return files


def rows_in_order(
    day_file: Path, batches: Sequence[str], folder: Path, codes: DictionaryEncoder
) -> Iterator[pl.DataFrame]:
    """The rows of these batches as numbers: batch after batch, whose number is `place`, each in its own order.

    What memory does not hold lies in `folder` meanwhile, which is emptied before and removed after. Raises as
    `unmerged`, but for a batch without a row.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield from external_sort(_rows_of(day_file, batches, codes), ROW, folder)
    shutil.rmtree(folder)


def day_groups(day_file: Path) -> Iterator[pa.Table]:
    """The row groups of a day's file, checksums verified: `DAY_SCHEMA`, texts as dictionaries, event times in ns.

    Raises FileNotFoundError, and CorruptionError where the file is damaged or has other columns.
    """
    with _open(day_file) as file:
        for group in range(file.num_row_groups):
            table = completed(file.read_row_group(group))
            at = table.schema.get_field_index("ts_event")
            yield table.set_column(at, "ts_event", table["ts_event"].cast(TIMESTAMP))


def _rows_of(day_file: Path, batches: Sequence[str], codes: DictionaryEncoder) -> Iterator[pl.DataFrame]:
    """The rows of these batches, each with its batch's place among them."""
    names = text_array(batches)
    for table in day_groups(day_file):
        batch = table["batch"].combine_chunks()
        places = pc.index_in(batch.dictionary.cast(pa.large_string()), names).take(batch.indices)
        rows = codes.of(table.drop_columns("batch"))
        yield rows.with_columns(pl.Series("place", places, pl.Int32)).drop_nulls("place")


@contextmanager
def _open(day_file: Path) -> Iterator[pq.ParquetFile]:
    try:
        columns = pq.read_schema(day_file)
        known = (DAY_SCHEMA, in_ms(DAY_SCHEMA))
        if not any(columns.equals(each) for each in (*known, *map(before_resent, known))):
            raise CorruptionError(f"{day_file}: its columns are not those of a day; restore it from a copy")
        texts = [*TEXTS, "batch"]
        with pq.ParquetFile(day_file, page_checksum_verification=True, read_dictionary=texts) as file:
            check_groups(file, day_file)
            yield file
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())[:200]
        raise CorruptionError(f"{day_file}: cannot be read ({said}); restore it from a copy") from error
