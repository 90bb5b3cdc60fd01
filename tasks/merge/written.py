"""How is a day's file written from its batches, and proven to hold their rows and no others?

Both in passes over the batches and over the file, however large the day is; memory is bounded by `tasks/sorting.py`.
"""

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.ahead import ahead
from tasks.codes import Codes, text_array
from tasks.columns import CODED_SCHEMA, explained, in_ms, plain
from tasks.days import DAY_SCHEMA, ROW, rows_in_order
from tasks.errors import CorruptionError
from tasks.forms import WRITER_OPTIONS, read_groups
from tasks.sorting import in_order, regrouped

ORDER = ("symbol", "ts_event", "ts_recv", *ROW)
# Of a day of five million trades and a hundred symbols, one symbol is in two or three of these.
ROWS_PER_GROUP = 50_000
_COMPARED_ROWS = 400_000
_READ_ROWS = 200_000
_BATCH = DAY_SCHEMA.field("batch")
_OPTIONS = WRITER_OPTIONS | {
    "use_dictionary": [*WRITER_OPTIONS["use_dictionary"], "batch"],
    # A day is written once, and kept: more pays where a text dictionary's indices or times stand.
    "compression_level": {name: 6 if name in {"ts_event", "price", "size"} else 3 for name in DAY_SCHEMA.names},
    "column_encoding": {**WRITER_OPTIONS["column_encoding"], "ts_recv": "DELTA_BINARY_PACKED"},
}


@dataclass(frozen=True, slots=True)
class Source:
    """A batch and a file of its rows in their order."""

    batch: str
    file: Path


def write(
    target: Path, facts: dict[str, str], sources: Sequence[Source], symbols: Iterable[str], aside: Path, *, ms: bool
) -> None:
    """Write the rows of all sources by symbol and time; `ms`: every event time is a whole millisecond.

    Of more rows than memory holds the rest lies in `aside` meanwhile, an empty folder.
    """
    coded = CODED_SCHEMA.append(_BATCH.with_type(CODED_SCHEMA.field("symbol").type))
    coded = in_ms(coded) if ms else coded
    said = plain(coded).with_metadata({**facts, "layout": "day", "columns": explained(coded)})
    by = pq.SortingColumn.from_ordering(said, [("symbol", "ascending"), ("ts_event", "ascending")])
    codes, names = Codes(symbols), text_array(each.batch for each in sources)
    ordered = regrouped(in_order(_rows(sources, codes), ORDER, aside), ROWS_PER_GROUP)
    with pq.ParquetWriter(target, coded, store_schema=False, sorting_columns=by, **_OPTIONS) as writer:
        writer.add_key_value_metadata({**said.metadata, b"ARROW:schema": base64.b64encode(said.serialize())})
        for rows in ordered:
            batch = pa.DictionaryArray.from_arrays(rows["place"].to_arrow(), names)
            table = codes.table(rows).append_column(coded.field("batch"), batch)
            writer.write_table(table.cast(coded), row_group_size=ROWS_PER_GROUP)


def compare(written: Path, sources: Sequence[Source], rows: int, aside: Path) -> None:
    """Read the file back, checksums and all, in the order of the sources beside them, value by value.

    Raises CorruptionError where it is not the same rows, so many, or not in order.
    """
    codes, seen = Codes(), 0
    ours = regrouped(_rows(sources, codes), _COMPARED_ROWS)
    theirs = regrouped(rows_in_order(written, [each.batch for each in sources], aside, codes), _COMPARED_ROWS)
    for mine, other in zip_longest(ours, theirs):
        if mine is None or other is None or not other.select(mine.columns).equals(mine):
            raise CorruptionError(f"{written}: differs from its batches after row {seen:,}; check memory and disk")
        seen += mine.height
    if seen != rows or pq.read_metadata(written).num_rows != rows:
        raise CorruptionError(f"{written}: holds {seen:,} rows, its batches {rows:,}; run `tape verify`")
    _check_order(written)


def _rows(sources: Sequence[Source], codes: Codes) -> Iterator[pl.DataFrame]:
    for place, table in ahead(_tables(sources)):
        yield codes.of(table).with_columns(pl.lit(place, pl.Int32).alias("place"))


def _tables(sources: Sequence[Source]) -> Iterator[tuple[int, pa.Table]]:
    for place, source in enumerate(sources):
        for table in read_groups(source.file, coded=True):
            # A batch's group of a million rows is far more as texts than as it lies.
            yield from ((place, table.slice(start, _READ_ROWS)) for start in range(0, len(table), _READ_ROWS))


def _check_order(written: Path) -> None:
    last = pl.DataFrame()
    with pq.ParquetFile(written) as file:
        for group in range(file.num_row_groups):
            keys = cast(pl.DataFrame, pl.from_arrow(file.read_row_group(group, ["symbol", "ts_event"])))
            keys = pl.concat([last, keys]) if len(last) else keys
            if not keys.select(pl.struct("symbol", "ts_event").is_sorted()).item():
                raise CorruptionError(f"{written}: is not in order in row group {group}; check memory and disk")
            last = keys.tail(1)
