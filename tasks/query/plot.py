"""Draws bars in plain characters, over a true axis of time."""

from collections.abc import Callable, Sequence

from tasks.query.bars import Bar
from tasks.query.numbers import plain_number

_BETWEEN_TICKS = 20


def plot(bars: Sequence[Bar], width: int, height: int, time_of: Callable[[int], str]) -> list[str]:
    """Draw bars of one symbol as lines: `|` from low to high, `O` if the price rose, `#` if not.

    Each column is the same length of time; intervals without a price stay empty. If there are more intervals than
    columns, neighbors share one. Returns no lines if no bar has a price.
    """
    priced = [bar for bar in bars if bar.high is not None and bar.low is not None]
    if not priced:
        return []
    top, bottom = max(bar.high or 0.0 for bar in priced), min(bar.low or 0.0 for bar in priced)
    label = max(len(plain_number(top)), len(plain_number(bottom)))
    start_ns, span_ns = priced[0].start_ns, priced[-1].end_ns - priced[0].start_ns
    intervals = -(-span_ns // min(bar.end_ns - bar.start_ns for bar in priced))
    columns = max(1, min(width - label - 2, intervals))
    drawn: dict[int, Bar] = {}
    for bar in priced:
        place = (bar.start_ns - start_ns) * columns // span_ns
        drawn[place] = _joined(drawn[place], bar) if place in drawn else bar
    rows = height if top > bottom else 1
    step = (top - bottom) / max(1, rows - 1) or 1.0

    def row_of(price: float) -> int:
        return round((top - price) / step)

    lines = []
    for row in range(rows):
        text = "".join(_mark(drawn[place], row, row_of) if place in drawn else " " for place in range(columns))
        price = plain_number(top) if row == 0 else plain_number(bottom) if row == rows - 1 else ""
        lines.append(f"{price:>{label}} {'+' if price else '|'}{text}".rstrip())
    return [*lines, *_axis(label, columns, lambda place: time_of(start_ns + place * span_ns // columns))]


def _axis(label: int, columns: int, time_at: Callable[[int], str]) -> list[str]:
    """Return a line of ticks and, below it, their times."""
    places = range(0, columns, _BETWEEN_TICKS)
    ticks = "".join("+" if place in places else "-" for place in range(columns))
    times = ""
    for place in places:
        times = f"{times:<{place}}{time_at(place)}"
    return [f"{'':>{label}} +{ticks}", f"{'':>{label}}  {times}"]


def _joined(one: Bar, other: Bar) -> Bar:
    """Return two neighbors as one bar; only what is drawn is filled in correctly."""
    highs, lows = (one.high or 0.0, other.high or 0.0), (one.low or 0.0, other.low or 0.0)
    return Bar(
        one.symbol, one.session, one.start_ns, other.end_ns, one.open if one.open is not None else other.open,
        max(highs), min(lows), other.close if other.close is not None else one.close, one.volume + other.volume, None,
        one.trades + other.trades, None,
    )  # fmt: skip


def _mark(bar: Bar, row: int, row_of: Callable[[float], int]) -> str:
    if bar.open is not None and bar.close is not None:
        first, last = sorted((row_of(bar.open), row_of(bar.close)))
        if first <= row <= last:
            return "O" if bar.close >= bar.open else "#"
    return "|" if row_of(bar.high or 0.0) <= row <= row_of(bar.low or 0.0) else " "
