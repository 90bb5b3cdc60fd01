"""OHLCV bars of one symbol."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tasks.errors import TerminalError
from tasks.query.sources import Sources
from tasks.query.views import connect

# Size 0 reports a price without a trade. Prints with equal times are ordered by receipt.
_BARS = """
SELECT epoch_ns(ts_event) // $every * $every AS start_ns,
       arg_min(price, place), max(price), min(price), arg_max(price, place), sum(size), sum(price * size), count(*),
       count(*) FILTER (price IS NULL OR size IS NULL)
FROM (SELECT *, (ts_event, ts_recv, connection, recv_seq) AS place FROM trades WHERE symbol = $symbol)
WHERE size > 0 OR size IS NULL GROUP BY 1 ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar from `start_ns` (UTC ns, event time). Prices and volume are exact; `vwap` has 9 decimals."""

    start_ns: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    vwap: Decimal
    trades: int


def bars(sources: Sources, symbol: str, every_ns: int) -> list[Bar]:
    """Return the symbol's bars over these files, oldest first; intervals without a trade have no bar.

    Rows marked `resent` count, because the mark is evidence, not proof. Raises TerminalError if a price or size has
    more digits than a bar can hold exactly.
    """
    with connect(sources) as database:
        rows = database.execute(_BARS, {"every": every_ns, "symbol": symbol}).fetchall()
    inexact = sum(row[8] for row in rows)
    if inexact:
        raise TerminalError(
            f"{symbol}: {inexact:,} prices or sizes have more digits than a bar holds; use price_text in `tape query`"
        )
    return [_bar(row) for row in rows]


def _bar(row: Sequence[Any]) -> Bar:
    start_ns, first, high, low, last, volume, value, trades, _ = row
    return Bar(start_ns, first, high, low, last, volume, round(value / volume, 9), trades)


def plot(found: Sequence[Bar], width: int, height: int, time_of: Callable[[int], str]) -> list[str]:
    """Draw the bars as lines of plain characters: `|` from low to high, `O` if the price rose, `#` if not.

    If there are more bars than columns, neighbors share one.
    """
    label = max(len(_price(each)) for bar in found for each in (bar.high, bar.low))
    columns = _columns(found, max(1, width - label - 2))
    top, bottom = max(bar.high for bar in found), min(bar.low for bar in found)
    step = (top - bottom) / max(1, height - 1) or Decimal(1)

    def row_of(price: Decimal) -> int:
        return round((top - price) / step)

    lines = []
    for row in range(height if top > bottom else 1):
        text = "".join(_mark(column, row, row_of) for column in columns)
        price = _price(top) if row == 0 else _price(bottom) if row == height - 1 else ""
        lines.append(f"{price:>{label}} {'+' if price else '|'}{text}".rstrip())
    first, last = time_of(found[0].start_ns), time_of(found[-1].start_ns)
    lines.append(f"{'':>{label}}  {first}{last:>{max(len(columns) - len(first), len(last) + 1)}}")
    return lines


def _columns(found: Sequence[Bar], most: int) -> list[Bar]:
    share = -(-len(found) // most)
    return [_joined(found[start : start + share]) for start in range(0, len(found), share)]


def _joined(some: Sequence[Bar]) -> Bar:
    volume = sum((bar.volume for bar in some), Decimal(0))
    return Bar(
        some[0].start_ns, some[0].open, max(bar.high for bar in some), min(bar.low for bar in some), some[-1].close,
        volume, sum((bar.vwap * bar.volume for bar in some), Decimal(0)) / volume, sum(bar.trades for bar in some),
    )  # fmt: skip


def _mark(bar: Bar, row: int, row_of: Callable[[Decimal], int]) -> str:
    body = sorted((row_of(bar.open), row_of(bar.close)))
    if body[0] <= row <= body[1]:
        return "O" if bar.close >= bar.open else "#"
    return "|" if row_of(bar.high) <= row <= row_of(bar.low) else " "


def _price(price: Decimal) -> str:
    text = f"{price:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
