"""Checks that a day's file contains exactly the rows of other files, value by value and in their order.

Both sides are streamed; memory is bounded by `external_sort`. A record and its SHA-256 prove which file was read;
only this comparison proves that the rows are the same.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import polars as pl
import pyarrow as pa

from tasks.archive.day_files import rows_in_order
from tasks.archive.dictionary_encoder import DictionaryEncoder
from tasks.archive.encodings import read_groups
from tasks.archive.sorting import LIMITS, SortLimits, regrouped
from tasks.errors import CorruptionError
from tasks.prefetch import prefetch

_COMPARED_ROWS = 100_000
_READ_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class Source:
    """A batch and a file with its rows in order."""

    batch: str
    file: Path


def check_same_rows(day_file: Path, sources: Sequence[Source], aside: Path, limits: SortLimits = LIMITS) -> int:
    """Check that the day's file has the same rows as these batches, and return the number of rows.

    Rows that do not fit in memory are spilled to the folder `aside`, which is created and removed. Raises
    CorruptionError if a row differs, is missing, or is extra.
    """
    codes = DictionaryEncoder()
    theirs = rows_in_order(day_file, [each.batch for each in sources], aside, codes, limits)
    return _compared(day_file, "its batches", rows_of(sources, codes), theirs)


def check_same_days(day_file: Path, other: Path, batches: Sequence[str], aside: Path) -> int:
    """Like `check_same_rows`, for batches contained in two day files."""
    codes = DictionaryEncoder()
    try:
        ours = rows_in_order(other, batches, aside / "ours", codes)
        return _compared(day_file, str(other), ours, rows_in_order(day_file, batches, aside / "theirs", codes))
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def rows_of(sources: Sequence[Source], codes: DictionaryEncoder) -> Iterator[pl.DataFrame]:
    """Yield the dictionary-encoded rows of all sources in order; `place` is the index of the source."""
    for place, table in prefetch(_tables(sources)):
        yield codes.encode(table).with_columns(pl.lit(place, pl.Int32).alias("place"))


def _tables(sources: Sequence[Source]) -> Iterator[tuple[int, pa.Table]]:
    for place, source in enumerate(sources):
        for table in read_groups(source.file, coded=True):
            # A group of a million rows needs far more memory as texts than as dictionaries.
            yield from ((place, table.slice(start, _READ_ROWS)) for start in range(0, len(table), _READ_ROWS))


def _compared(day_file: Path, what: str, ours: Iterator[pl.DataFrame], theirs: Iterator[pl.DataFrame]) -> int:
    seen = 0
    for mine, other in zip_longest(regrouped(ours, _COMPARED_ROWS), regrouped(theirs, _COMPARED_ROWS)):
        if mine is None or other is None or not other.select(mine.columns).equals(mine):
            raise CorruptionError(f"{day_file}: differs from {what} after row {seen:,}; check memory and disk")
        seen += mine.height
    return seen
