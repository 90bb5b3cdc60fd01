"""Finds missing trade numbers within a batch and between the batches of a session, for feeds that number trades."""

from collections.abc import Iterable

import polars as pl

from tasks.archive.batch_facts import BatchFacts
from tasks.records.gaps import overlaps
from tasks.records.ledger import Gap
from tasks.records.manifest import MissingIds, Report, TradeIds

_MOST_LISTED = 10_000
_COLUMNS = {"symbol": pl.String, "trade_id": pl.Int64, "ts_recv": pl.Int64}


class TradeNumbers:
    """Tracks each symbol's trade numbers through the rows of one batch, in order of receipt.

    `missing` lists up to `_MOST_LISTED` holes; `unlisted` counts the numbers in all further holes.
    """

    def __init__(self) -> None:
        self.missing: list[MissingIds] = []
        self.unlisted = 0
        self._ranges: dict[str, TradeIds] = {}

    def note(self, rows: pl.DataFrame) -> None:
        """Add the next rows (symbol, `trade_id`, and `ts_recv` in UTC ns); unreadable values are null."""
        rows = rows.select(pl.col(name).cast(kind, strict=False) for name, kind in _COLUMNS.items()).drop_nulls()
        if not len(rows):
            return
        known = [(symbol, each.last_id, each.last_recv_ns) for symbol, each in self._ranges.items()]
        every = pl.concat([pl.DataFrame(known, _COLUMNS, orient="row"), rows]).with_columns(
            pl.col("trade_id").cum_max().shift(1).over("symbol").alias("before"),
            pl.col("ts_recv").shift(1).over("symbol").alias("since"),
        )
        for symbol, number, ts_recv, before, since in every.filter(
            pl.col("trade_id") > pl.col("before") + 1
        ).iter_rows():
            self._list(MissingIds(symbol, before + 1, number - 1, since, ts_recv))
        for symbol, first, last, first_ns, last_ns in rows.group_by("symbol", maintain_order=True).agg(
            pl.col("trade_id").min().alias("first"), pl.col("trade_id").max().alias("last"),
            pl.col("ts_recv").first().alias("first_ns"), pl.col("ts_recv").last().alias("last_ns"),
        ).iter_rows():  # fmt: skip
            was = self._ranges.get(symbol, TradeIds(first, last, first_ns, last_ns))
            self._ranges[symbol] = TradeIds(
                min(was.first_id, first), max(was.last_id, last), was.first_recv_ns, last_ns
            )

    def ranges(self) -> dict[str, TradeIds]:
        """Return each symbol's first and last number, and when (UTC ns) they were received."""
        return dict(sorted(self._ranges.items()))

    def _list(self, hole: MissingIds) -> None:
        if len(self.missing) < _MOST_LISTED:
            self.missing.append(hole)
        else:
            self.unlisted += hole.count


def missing_and_named(batches: Iterable[Report | BatchFacts], gaps: Iterable[Gap]) -> tuple[int, int]:
    """Return how many numbers a session lacks, and how many of those lie in a recorded gap of their symbol.

    `batches` has the report or summary of every batch of the session, in order within each lane. A missing number
    lies in a gap if the gap overlaps the time between the trades before and after it.
    """
    reports = list(batches)
    holes = [hole for report in reports for hole in report.missing_ids] + _between(reports)
    of_symbol: dict[str, list[Gap]] = {}
    for gap in gaps:
        for symbol in gap.symbols:
            of_symbol.setdefault(symbol, []).append(gap)
    unlisted = sum(report.missing_ids_unlisted for report in reports)
    named = sum(
        hole.count for hole in holes if any(overlaps(gap, *hole.span_ns) for gap in of_symbol.get(hole.symbol, ()))
    )
    return sum(hole.count for hole in holes) + unlisted, named


def _between(reports: list[Report | BatchFacts]) -> list[MissingIds]:
    """Return the numbers missing between consecutive batches; all batches of a symbol are of one lane."""
    holes = []
    for symbol in sorted({symbol for report in reports for symbol in report.trade_ids}):
        ranges = [each for report in reports if (each := report.trade_ids.get(symbol))]
        last = ranges[0]
        for each in ranges[1:]:
            if each.first_id > last.last_id + 1:
                holes.append(
                    MissingIds(symbol, last.last_id + 1, each.first_id - 1, last.last_recv_ns, each.first_recv_ns)
                )
            last = max(last, each, key=lambda known: known.last_id)
    return holes
