"""Bars are exact, in order, and from trades only."""

from dataclasses import replace
from decimal import Decimal as D
from typing import Any

import pytest

from tasks.errors import TerminalError
from tasks.query.bars import Bar, bars, plot
from tasks.query.sources import Sources, sources_of
from tasks.storage.store import Store

MINUTE_NS = 60_000_000_000
START_NS = 1_795_530_600_000_000_000


def of_first_day(store: Store, symbol: str, every_ns: int = MINUTE_NS) -> list[Bar]:
    return bars(sources_of(store, store.manifests(date="2026-11-24"), symbol), symbol, every_ns)


def test_minute_bars_are_what_the_trades_make(archived: Store) -> None:
    """Bars have open, high, low, close, volume, vwap, and count; prices without a trade and empty minutes make none."""
    assert of_first_day(archived, "AAPL") == [
        Bar(START_NS, D("100.1"), D("100.3"), D("100.1"), D("100.2"), D(16), D("100.16875"), 3),
        Bar(START_NS + MINUTE_NS, D("99.9"), D("99.9"), D("99.9"), D("99.9"), D("2.5"), D("99.9"), 1),
        Bar(START_NS + 2 * MINUTE_NS, D(101), D(101), D(101), D(101), D(1), D(101), 1),
    ]


def test_many_digits_stay_exact(archived: Store) -> None:
    """A price of nine decimals and a size of eleven digits are not rounded."""
    (bar,) = of_first_day(archived, "SHIB")
    assert (bar.open, bar.volume, bar.vwap) == (D("0.000012345"), D(50_000_000_000), D("0.000012345"))


def test_a_symbol_without_trades_has_no_bars(archived: Store) -> None:
    """An unknown symbol gives no bars without opening a file."""
    assert sources_of(archived, archived.manifests(), "MSFT") == Sources([])
    assert of_first_day(archived, "MSFT") == []


def test_prints_of_one_time_open_and_close_in_order_of_receipt(store: Store, sealed_batch: Any) -> None:
    """Among prints with one event time, the first received opens the bar and the last received closes it."""
    from tasks.compress.parquet import compress
    from tasks.validate.schema import Limits
    from tasks.validate.split import split

    rows = [f"1,{n},{START_NS + n},{START_NS},A,{price},1,\n".encode() for n, price in enumerate((3, 9, 1, 5), 1)]
    name = sealed_batch(rows)
    split(store, name, Limits(None, None))
    compress(store, name)
    (bar,) = bars(sources_of(store, store.manifests()), "A", MINUTE_NS)
    assert (bar.open, bar.high, bar.low, bar.close) == (3, 9, 1, 5)


def test_what_a_bar_cannot_hold_exactly_is_an_error(store: Store, sealed_batch: Any) -> None:
    """A price that would have to be rounded raises an error instead of being skipped."""
    from tasks.compress.parquet import compress
    from tasks.validate.schema import Limits
    from tasks.validate.split import split

    name = sealed_batch([f"1,1,{START_NS},{START_NS},A,1.00000000001,1,\n".encode()])
    split(store, name, Limits(None, None))
    compress(store, name)
    with pytest.raises(TerminalError, match="price_text"):
        bars(sources_of(store, store.manifests()), "A", MINUTE_NS)


def test_a_plot_shows_rise_fall_and_range() -> None:
    """Each bar is a column with its range and direction; the highest and lowest price are at the side."""
    rise = Bar(0, D(1), D(3), D(0), D(2), D(1), D(1), 1)
    fall = replace(rise, open=D(3), close=D(1))
    assert plot([rise, fall], 40, 4, str) == ["3 +|#", "  |O#", "  |O#", "0 +||", "   0 0"]


def test_a_plot_of_many_bars_fits_its_width() -> None:
    """More bars than columns share columns, without losing the highest price."""
    flat = Bar(0, D(1), D(1), D(1), D(1), D(1), D(1), 1)
    many = [replace(flat, start_ns=n) for n in range(1_000)]
    many[500] = replace(flat, high=D(100))
    lines = plot(many, 60, 10, str)
    assert max(map(len, lines)) <= 60
    assert lines[0].startswith("100 +")
    assert lines[0].count("|") == 1
    assert plot([flat], 60, 10, str)[0] == "1 +O", "a price that never moved is one line"
