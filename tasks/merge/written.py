"""Writes a day's file from its batches, and proves that it contains exactly their rows.

Both are streamed, however large the day is; memory is bounded by `external_sort`.
"""

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.archive.day_files import DAY_SCHEMA, ROW
from tasks.archive.dictionary_encoder import DictionaryEncoder, text_array
from tasks.archive.encodings import WRITER_OPTIONS
from tasks.archive.same_rows import Source, check_same_rows, rows_of
from tasks.archive.schema import CODED_SCHEMA, explained, in_ms, without_dictionaries
from tasks.archive.sorting import external_sort, regrouped
from tasks.errors import CorruptionError

ORDER = ("symbol", "ts_event", "ts_recv", *ROW)
# On a day of five million trades and a hundred symbols, a symbol is in two or three row groups.
ROWS_PER_GROUP = 50_000
_BATCH = DAY_SCHEMA.field("batch")
_OPTIONS = WRITER_OPTIONS | {
    "use_dictionary": [*WRITER_OPTIONS["use_dictionary"], "batch"],
    # A day is written once and kept, so stronger compression pays off for dictionary indices and times.
    "compression_level": {name: 6 if name in {"ts_event", "price", "size"} else 3 for name in DAY_SCHEMA.names},
    "column_encoding": {**WRITER_OPTIONS["column_encoding"], "ts_recv": "DELTA_BINARY_PACKED"},
}


def write(
    target: Path, facts: dict[str, str], sources: Sequence[Source], symbols: Iterable[str], aside: Path, *, ms: bool
) -> None:
    """Write the rows of all sources, sorted by symbol and time; `ms`: all event times are whole milliseconds.

    Rows that do not fit in memory are spilled to `aside`, an empty folder.
    """
    coded = CODED_SCHEMA.append(_BATCH.with_type(CODED_SCHEMA.field("symbol").type))
    coded = in_ms(coded) if ms else coded
    said = without_dictionaries(coded).with_metadata({**facts, "layout": "day", "columns": explained(coded)})
    by = pq.SortingColumn.from_ordering(said, [("symbol", "ascending"), ("ts_event", "ascending")])
    codes, names = DictionaryEncoder(symbols), text_array(each.batch for each in sources)
    ordered = regrouped(external_sort(rows_of(sources, codes), ORDER, aside), ROWS_PER_GROUP)
    with pq.ParquetWriter(target, coded, store_schema=False, sorting_columns=by, **_OPTIONS) as writer:
        writer.add_key_value_metadata({**said.metadata, b"ARROW:schema": base64.b64encode(said.serialize())})
        for rows in ordered:
            batch = pa.DictionaryArray.from_arrays(rows["place"].to_arrow(), names)
            table = codes.decode(rows).append_column(coded.field("batch"), batch)
            writer.write_table(table.cast(coded), row_group_size=ROWS_PER_GROUP)


def compare(written: Path, sources: Sequence[Source], rows: int, aside: Path) -> None:
    """Read the file back, verifying checksums, and compare it with the sources value by value.

    Raises CorruptionError if the rows or their number differ, or are not in order.
    """
    seen = check_same_rows(written, sources, aside)
    if seen != rows or pq.read_metadata(written).num_rows != rows:
        raise CorruptionError(f"{written}: holds {seen:,} rows, its batches {rows:,}; run `tape verify`")
    _check_order(written)


def _check_order(written: Path) -> None:
    last = pl.DataFrame()
    with pq.ParquetFile(written) as file:
        for group in range(file.num_row_groups):
            keys = cast(pl.DataFrame, pl.from_arrow(file.read_row_group(group, ["symbol", "ts_event"])))
            keys = pl.concat([last, keys]) if len(last) else keys
            if not keys.select(pl.struct("symbol", "ts_event").is_sorted()).item():
                raise CorruptionError(f"{written}: is not in order in row group {group}; check memory and disk")
            last = keys.tail(1)
