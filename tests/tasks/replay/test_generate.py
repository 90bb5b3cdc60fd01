from collections import Counter
from decimal import Decimal
from itertools import islice, pairwise

import pytest

from tasks.records.trade import NS_PER_S
from tasks.replay.generate import START_NS, SYMBOLS, generate


def test_a_seed_gives_one_tape() -> None:
    """The same seed gives the same trades, and another seed gives others."""
    assert list(generate(5, 3)) == list(generate(5, 3))
    assert list(generate(5, 3)) != list(generate(6, 3))


@pytest.mark.slow
def test_it_is_as_lively_as_a_market() -> None:
    """Symbols differ in activity by orders of magnitude, and the busiest second is far above the usual one."""
    trades = list(generate(7, 90))
    per_symbol = Counter(trade.symbol for trade in trades)
    assert per_symbol.keys() <= set(SYMBOLS)
    assert len(per_symbol) >= 22
    assert per_symbol["SPY"] > 90 * 200
    assert min(per_symbol.values()) < 30
    per_second = sorted(Counter(trade.ts_event_ns // NS_PER_S for trade in trades).values())
    assert per_second[-1] > 2 * per_second[45]


def test_it_carries_what_a_feed_carries() -> None:
    """A tape has conditions, odd lots, crypto fractions, size-0 quotes, and identical and late prints."""
    trades = list(generate(7, 60))
    assert all(Decimal(trade.price) > 0 and Decimal(trade.size) >= 0 for trade in trades)
    crypto = [trade for trade in trades if trade.symbol.startswith("BINANCE:")]
    stocks = [trade for trade in trades if ":" not in trade.symbol]
    assert len({trade.symbol for trade in crypto}) >= 3
    assert all(trade.conditions == () for trade in crypto)
    assert any(Decimal(trade.size) % 1 for trade in crypto)
    assert {"0"} == {trade.size for trade in trades if trade.symbol.startswith("OANDA:")}
    assert {"1", "12"} in [set(trade.conditions) for trade in stocks]
    assert len({trade.size for trade in stocks}) > 15
    assert any(one == other for one, other in pairwise(trades))
    assert any(one.ts_event_ns > other.ts_event_ns + NS_PER_S for one, other in pairwise(trades))
    assert all(START_NS <= trade.ts_event_ns < START_NS + 60 * NS_PER_S for trade in trades)


def test_prices_move_in_small_steps() -> None:
    """A price moves by a tick or so between prints of a symbol."""
    prices = [Decimal(trade.price) for trade in generate(8, 20) if trade.symbol == "SPY"]
    assert len(set(prices)) > 10
    assert max(abs(after - before) for before, after in pairwise(prices)) <= Decimal("0.02")


def test_it_comes_as_it_is_made() -> None:
    """A tape of years yields its first trades at once, because trades are generated lazily."""
    assert len(list(islice(generate(9, 3e8), 100))) == 100


def test_a_rate_multiplies_the_activity() -> None:
    """Ten times the rate gives about ten times the trades."""
    usual, tenfold = (sum(1 for _ in generate(10, 20, rate=rate)) for rate in (0.1, 1.0))
    assert 5 < tenfold / usual < 20
