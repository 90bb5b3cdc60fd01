"""Counts trades and lag by minute of receipt, from archived batches: what the pictures of a run are drawn from."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from tasks.archive.encodings import read_groups

MINUTE_NS = 60_000_000_000
_COLUMNS = ["ts_recv", "ts_event"]


@dataclass(frozen=True, slots=True)
class Minute:
    """One minute from `start_ns` (UTC ns, receipt): its trades, and their lag from event to receipt in ms."""

    start_ns: int
    trades: int
    p50_ms: float
    p99_ms: float
    most_ms: float


@dataclass(slots=True)
class Minutes:
    """The minutes of some batch files. Each file is read once, however often they are asked for."""

    _lags: dict[Path, pl.DataFrame] = field(default_factory=dict)

    def of(self, files: Iterable[Path]) -> list[Minute]:
        """Return the minutes of these files together, oldest first; a file that is gone is left out.

        Lags are known to a millisecond. Raises CorruptionError if a file is damaged.
        """
        wanted = [file for file in files if self._read(file)]
        if not wanted:
            return []
        weights = pl.concat([self._lags[file] for file in wanted]).group_by("minute", "lag_ms").agg(pl.col("n").sum())
        found = weights.sort("lag_ms").group_by("minute", maintain_order=True).agg(
            pl.col("n").sum().alias("trades"),
            pl.col("lag_ms").filter(pl.col("n").cum_sum() >= 0.50 * pl.col("n").sum()).first().alias("p50"),
            pl.col("lag_ms").filter(pl.col("n").cum_sum() >= 0.99 * pl.col("n").sum()).first().alias("p99"),
            pl.col("lag_ms").last().alias("most"),
        )  # fmt: skip
        return [Minute(minute * MINUTE_NS, *rest) for minute, *rest in found.sort("minute").iter_rows()]

    def _read(self, file: Path) -> bool:
        """Read how many trades of a file have which lag in which minute; return False if the file is gone."""
        if file not in self._lags:
            try:
                parts = [pl.DataFrame(pl.from_arrow(group.select(_COLUMNS))) for group in read_groups(file)]
            except FileNotFoundError:
                return False
            self._lags[file] = (
                pl.concat(parts)
                .select(pl.col(_COLUMNS).cast(pl.Int64))
                .select(
                    (pl.col("ts_recv") // MINUTE_NS).alias("minute"),
                    ((pl.col("ts_recv") - pl.col("ts_event")) // 1_000_000).cast(pl.Float64).alias("lag_ms"),
                )
                .group_by("minute", "lag_ms")
                .agg(pl.len().alias("n"))
            )
        return True
