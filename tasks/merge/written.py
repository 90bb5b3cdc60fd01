"""Writes a day's file from its batches, and proves that it contains exactly their rows.

Both are streamed, however large the day is; memory is bounded by `external_sort`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.archive.columns import to_file
from tasks.archive.day_files import DAY_SCHEMA, ROW
from tasks.archive.dictionary_encoder import DictionaryEncoder, text_array
from tasks.archive.encodings import WRITER_OPTIONS, parquet_writer
from tasks.archive.same_rows import Source, check_same_rows, rows_of
from tasks.archive.schema import explained, without_dictionaries
from tasks.archive.sorting import LIMITS, SortLimits, cut, external_sort
from tasks.errors import CorruptionError
from tasks.records.manifest import FORMAT_VERSION
from tasks.records.names import BatchName

ORDER = ("symbol", "ts_event", "ts_recv", *ROW)
_OPTIONS = WRITER_OPTIONS | {
    # A day is written once and kept: times at these levels take 9 % and 3 % less than at those of a batch.
    "compression_level": {**WRITER_OPTIONS["compression_level"], "ts_event": 12, "ts_recv": 9},
    "use_dictionary": [*WRITER_OPTIONS["use_dictionary"], "batch"],
    "column_encoding": {**WRITER_OPTIONS["column_encoding"], "ts_recv": "DELTA_BINARY_PACKED"},
    # Every query reads all statistics: only those that can rule out a row group.
    "write_statistics": ["symbol", "ts_event", "ts_recv", "price", "size"],
}


@dataclass(frozen=True, slots=True)
class MergeLimits:
    """How many rows a row group has at most, see `group_sizes`, and how many are sorted in memory."""

    rows_per_group: int = 60_000
    sorting: SortLimits = LIMITS


def write(
    target: Path,
    facts: dict[str, str],
    sources: Sequence[Source],
    symbols: Mapping[str, int],
    aside: Path,
    limits: MergeLimits,
) -> None:
    """Write the rows of all sources, sorted by symbol and time; `symbols` has the number of rows of each symbol.

    Rows that do not fit in memory are spilled to `aside`, an empty folder.
    """
    said = {**facts, "format_version": str(FORMAT_VERSION), "layout": "day", "columns": explained(DAY_SCHEMA)}
    schema = without_dictionaries(DAY_SCHEMA).with_metadata(said)
    by = pq.SortingColumn.from_ordering(schema, [("symbol", "ascending"), ("ts_event", "ascending")])
    codes, batches = DictionaryEncoder(symbols), [each.batch for each in sources]
    rows_sorted = external_sort(rows_of(sources, codes), ORDER, aside, limits.sorting)
    ordered = cut(rows_sorted, group_sizes(symbols, limits.rows_per_group))
    with parquet_writer(target, DAY_SCHEMA, schema, sorting_columns=by, **_OPTIONS) as writer:
        for rows in ordered:
            batch = pa.DictionaryArray.from_arrays(rows["place"].to_arrow(), text_array(batches))
            table = codes.decode(rows).append_column(DAY_SCHEMA.field("batch"), batch)
            group = to_file(table, DAY_SCHEMA, _sessions(rows["place"], batches))
            writer.write_table(group, row_group_size=len(group))


def group_sizes(symbols: Mapping[str, int], most: int) -> Iterator[int]:
    """Yield the numbers of rows of row groups of at most `most` rows, in the order of the symbols' bytes.

    Each group ends with the last row of a symbol, or holds a part of one symbol alone: reading a symbol then reads
    few rows of others.
    """
    shared = 0
    for symbol in sorted(symbols):
        rows = symbols[symbol]
        if shared and shared + rows > most:
            yield shared
            shared = 0
        if rows > most:
            parts = -(-rows // most)
            yield from (rows * (part + 1) // parts - rows * part // parts for part in range(parts))
        else:
            shared += rows
    if shared:
        yield shared


def _sessions(places: pl.Series, batches: Sequence[str]) -> pa.DictionaryArray:
    """Return the session of each row's batch."""
    of_batches = [BatchName.parse(batch).session for batch in batches]
    names = list(dict.fromkeys(of_batches))
    codes = pl.Series([names.index(session) for session in of_batches], dtype=pl.Int32)
    return pa.DictionaryArray.from_arrays(codes.gather(places).to_arrow(), text_array(names))


def compare(written: Path, sources: Sequence[Source], rows: int, aside: Path, limits: MergeLimits) -> None:
    """Read the file back, checksums and all, in the order of the sources beside them, value by value.

    Raises CorruptionError where it is not the same rows, so many, or not in order.
    """
    seen = check_same_rows(written, sources, aside, limits.sorting)
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
