"""Finds missing trade numbers within a batch, for feeds that number trades."""

import polars as pl

from tasks.records.manifest import MissingIds, TradeIds

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
