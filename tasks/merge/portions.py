"""Which trades of a day's batches come next, by symbol and time, so that no more than some millions are in memory?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import polars as pl
import pyarrow as pa

from tasks.ahead import ahead
from tasks.columns import TEXTS
from tasks.forms import read_groups

_MINUTE_NS = 60_000_000_000
_ROWS = 600_000
ORDER = ("symbol", "ts_event", "ts_recv", "place", "connection", "recv_seq")
_Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Portion:
    """The trades from `first` to before `end`, each a symbol and a minute of event time; None is no limit."""

    first: _Key | None
    end: _Key | None

    def holds(self) -> pl.Expr:
        """Whether a row is among them."""
        inside = pl.lit(value=True)
        if self.first is not None:
            inside &= _reaches(self.first)
        return inside if self.end is None else inside & ~_reaches(self.end)


def portions(files: Sequence[Path], rows: int = _ROWS) -> list[Portion]:
    """The trades of these files in portions of about so many rows; one symbol's minute is never parted."""
    counts = pl.DataFrame(schema={"symbol": pl.String, "minute": pl.Int64, "len": pl.UInt32})
    for file in files:
        for table in read_groups(file, coded=True):
            frame = as_frame(table.select(["symbol", "ts_event"]))
            counted = frame.group_by("symbol", _minute().alias("minute")).len()
            counts = pl.concat([counts, counted]).group_by("symbol", "minute").agg(pl.col("len").sum())
    counts = counts.sort("symbol", "minute")
    number = (counts["len"].cast(pl.Int64).cum_sum() - counts["len"]) // rows
    starts = [key for key, is_first in zip(
        counts.select("symbol", "minute").iter_rows(), number != number.shift(1, fill_value=0), strict=True
    ) if is_first]  # fmt: skip
    keys: list[_Key | None] = [None, *cast(list[_Key], starts), None]
    return [Portion(first, end) for first, end in pairwise(keys)]


def gather(files: Sequence[Path], portion: Portion) -> pl.DataFrame:
    """The portion's rows in the order of the files and of their rows; `place` is the number of the file, from 0."""
    return pl.concat([frame.with_columns(pl.lit(place, pl.Int32).alias("place"))
                      for place, file in enumerate(files) for frame in _rows(file, portion)])  # fmt: skip


def _rows(file: Path, portion: Portion) -> Iterator[pl.DataFrame]:
    for table in ahead(read_groups(file, coded=True)):
        yield as_frame(table).filter(portion.holds())


def as_frame(table: pa.Table) -> pl.DataFrame:
    """Symbols as String, which sorts by bytes; the other texts, of which many are equal, as Categorical."""
    frame = cast(pl.DataFrame, pl.from_arrow(table))
    texts = [name for name in TEXTS if name in frame.columns]
    return frame.with_columns(pl.col(name).cast(pl.String if name == "symbol" else pl.Categorical) for name in texts)


def _minute() -> pl.Expr:
    return pl.col("ts_event").to_physical() // _MINUTE_NS


def _reaches(key: _Key) -> pl.Expr:
    symbol, minute = key
    return (pl.col("symbol") > symbol) | ((pl.col("symbol") == symbol) & (_minute() >= minute))
