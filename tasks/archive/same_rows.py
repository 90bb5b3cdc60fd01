"""Does the file of a day hold the very rows that lie in other files: value by value, in their order?

Passes over both, however large they are: memory is bounded by `external_sort`. What a record says of rows, and the
SHA-256 that it gives, prove where they come from; only this proves what they are.
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
from tasks.archive.sorting import regrouped
from tasks.errors import CorruptionError
from tasks.prefetch import prefetch

_COMPARED_ROWS = 400_000
_READ_ROWS = 200_000


@dataclass(frozen=True, slots=True)
class Source:
    """A batch and a file of its rows in their order."""

    batch: str
    file: Path


def check_same_rows(day_file: Path, sources: Sequence[Source], aside: Path) -> int:
    """How many rows these batches have, which are in the day's file as they are in their own.

    What memory does not hold lies in the folder `aside` meanwhile, which is made and removed. Raises CorruptionError
    where one differs, is missing or is one too many.
    """
    codes = DictionaryEncoder()
    theirs = rows_in_order(day_file, [each.batch for each in sources], aside, codes)
    return _compared(day_file, "its batches", rows_of(sources, codes), theirs)


def check_same_days(day_file: Path, other: Path, batches: Sequence[str], aside: Path) -> int:
    """As `check_same_rows`, of batches that are in the files of two days."""
    codes = DictionaryEncoder()
    try:
        ours = rows_in_order(other, batches, aside / "ours", codes)
        return _compared(day_file, str(other), ours, rows_in_order(day_file, batches, aside / "theirs", codes))
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def rows_of(sources: Sequence[Source], codes: DictionaryEncoder) -> Iterator[pl.DataFrame]:
    """The rows of all sources as numbers, one after the other; `place` is the number of the source."""
    for place, table in prefetch(_tables(sources)):
        yield codes.of(table).with_columns(pl.lit(place, pl.Int32).alias("place"))


def _tables(sources: Sequence[Source]) -> Iterator[tuple[int, pa.Table]]:
    for place, source in enumerate(sources):
        for table in read_groups(source.file, coded=True):
            # A batch's group of a million rows is far more as texts than as it lies.
            yield from ((place, table.slice(start, _READ_ROWS)) for start in range(0, len(table), _READ_ROWS))


def _compared(day_file: Path, what: str, ours: Iterator[pl.DataFrame], theirs: Iterator[pl.DataFrame]) -> int:
    seen = 0
    for mine, other in zip_longest(regrouped(ours, _COMPARED_ROWS), regrouped(theirs, _COMPARED_ROWS)):
        if mine is None or other is None or not other.select(mine.columns).equals(mine):
            raise CorruptionError(f"{day_file}: differs from {what} after row {seen:,}; check memory and disk")
        seen += mine.height
    return seen
