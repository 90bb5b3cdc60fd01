"""Generates a realistic tape from a seed: the same arguments give the same trades.

Activity ranges from a few hundred trades per second in the busiest symbol to one in minutes. It comes in bursts of one
symbol (each trade makes the next more likely) and of the whole market. The tape has what real feeds have: odd lots,
condition codes, sub-penny prints, fractional crypto sizes without conditions, forex quotes of size 0, identical prints,
and late prints.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp

import numpy as np

from tasks.records.trade import NS_PER_MS, Trade

# A Tuesday, 09:30 in New York.
START_NS = 1_795_530_600_000_000_000

_SLICE_MS = 100
_MEMORY_MS = 400  # how fast a symbol's excitement fades
_CHILDREN = 0.6  # trades that one trade brings about, on average
_BURST_ODDS = 0.008  # that a burst of the whole market begins in a slice
_DUPLICATE_ODDS = 0.003
_LATE_ODDS = 0.002
_LATEST_MS = 15_000
_BUSIEST_PER_S = 300.0
_QUIETER = 0.68  # each symbol's rate relative to the one before; the last trades once in two minutes


@dataclass(frozen=True, slots=True)
class _Kind:
    """Sizes are drawn from `lots`, conditions from `conditions`, both uniformly; prices have `places` decimals."""

    places: int
    lots: tuple[str, ...]
    conditions: tuple[tuple[str, ...], ...]


_ODD_LOTS = ("1", "2", "3", "5", "7", "10", "12", "25", "40", "50", "75", "99")
_STOCK = _Kind(4, ("100", "100", "100", "100", "200", "200", "300", "400", "500", "1000", "2500", "150"),
               (("1",), ("1",), ("1",), ("1", "8"), ("1", "9"), ("1", "17"), ()))  # fmt: skip
_ODD = _Kind(4, _ODD_LOTS, (("1", "12"), ("1", "12"), ("1", "12"), ("1", "8", "12"), ("1", "12", "24")))
_CRYPTO = _Kind(5, ("0.00021", "0.00387", "0.0115", "0.05", "0.1", "0.25", "1", "1.33071", "12.4", "0.00008"), ((),))
_FOREX = _Kind(5, ("0",), ((),))

# Busiest first: symbol, price at the start and its usual step, both in units of the kind's last decimal.
_LISTING: tuple[tuple[str, _Kind, int, int], ...] = (
    ("SPY", _STOCK, 5_912_300, 100), ("BINANCE:BTCUSDT", _CRYPTO, 9_712_345_000, 1000),
    ("NVDA", _STOCK, 1_417_900, 100), ("TSLA", _STOCK, 3_525_600, 100),
    ("BINANCE:ETHUSDT", _CRYPTO, 335_128_000, 1000), ("AAPL", _STOCK, 2_298_700, 100),
    ("QQQ", _STOCK, 5_048_100, 100), ("AMD", _STOCK, 1_383_500, 100), ("AMZN", _STOCK, 1_971_200, 100),
    ("BINANCE:SOLUSDT", _CRYPTO, 25_514_000, 1000), ("MSFT", _STOCK, 4_170_000, 100), ("META", _STOCK, 5_591_400, 100),
    ("OANDA:EUR_USD", _FOREX, 104_183, 1), ("PLTR", _STOCK, 644_500, 100), ("GOOGL", _STOCK, 1_647_600, 100),
    ("BAC", _STOCK, 470_000, 100), ("INTC", _STOCK, 245_000, 100), ("BINANCE:DOGEUSDT", _CRYPTO, 42_110, 1),
    ("JPM", _STOCK, 2_485_500, 100), ("XOM", _STOCK, 1_217_900, 100), ("KO", _STOCK, 638_100, 100),
    ("IBM", _STOCK, 2_229_700, 100), ("GE", _STOCK, 1_801_100, 100), ("BINANCE:LTCBTC", _CRYPTO, 92, 1),
    ("BRK.B", _STOCK, 4_772_800, 100), ("AIG", _STOCK, 763_300, 100), ("CBOE", _STOCK, 2_054_800, 100),
    ("BRK.A", _STOCK, 7_166_900_000, 250_000),
)  # fmt: skip

SYMBOLS = tuple(row[0] for row in _LISTING)


def generate(seed: int, duration_s: float, *, rate: float = 1.0, start_ns: int = START_NS) -> Iterator[Trade]:
    """Yield the trades of `duration_s` seconds from `start_ns` (UTC ns), in order of arrival.

    At `rate` 1 there are about 1,000 trades/s over the `SYMBOLS`, in bursts 4,000; another rate scales every symbol.
    Trades are ordered by event time, except for a few late prints.
    """
    random = np.random.default_rng(seed)
    prices = [start for _, _, start, _ in _LISTING]
    for counts, at_ms, slice_ms in _arrivals(random, round(duration_s * 1000), rate):
        which = np.repeat(np.arange(len(_LISTING)), counts)
        moments = np.sort(random.integers(0, slice_ms, which.size))
        random.shuffle(which)
        draws = random.random((which.size, 5)).tolist()
        for symbol, moment, draw in zip(which.tolist(), moments.tolist(), draws, strict=True):
            trade_ms = at_ms + moment
            if draw[0] < _LATE_ODDS:
                trade_ms = max(0, trade_ms - int(draw[1] * _LATEST_MS))
            trade = _trade(symbol, start_ns // NS_PER_MS + trade_ms, prices, draw)
            yield trade
            if draw[0] > 1 - _DUPLICATE_ODDS:
                yield trade


def _arrivals(random: np.random.Generator, duration_ms: int, rate: float) -> Iterator[tuple[np.ndarray, int, int]]:
    """Yield for each slice of time how many trades each symbol has, the slice's start, and its length in ms."""
    calm = rate * _BUSIEST_PER_S * _QUIETER ** np.arange(len(_LISTING))
    excited = calm * _CHILDREN
    burst, burst_ends_ms = 1.0, 0
    for at_ms in range(0, duration_ms, _SLICE_MS):
        slice_ms = min(_SLICE_MS, duration_ms - at_ms)
        if random.random() < _BURST_ODDS:
            burst, burst_ends_ms = random.uniform(2, 6), at_ms + int(random.integers(300, 2500))
        elif at_ms >= burst_ends_ms:
            burst = 1.0
        counts = random.poisson((calm * (1 - _CHILDREN) * burst + excited) * slice_ms / 1000)
        fading = exp(-slice_ms / _MEMORY_MS)
        excited = excited * fading + counts * (_CHILDREN * (1 - fading) * 1000 / slice_ms)
        yield counts, at_ms, slice_ms


def _trade(symbol: int, at_ms: int, prices: list[int], draw: list[float]) -> Trade:
    name, kind, start, step = _LISTING[symbol]
    # Most prints are at the last price; the walk turns up after it has lost half of its price.
    prices[symbol] += step if draw[1] > 0.86 or prices[symbol] * 2 < start else -step if draw[1] < 0.14 else 0
    if kind is _STOCK and draw[2] < 0.45:
        kind = _ODD
    price = prices[symbol] + (step // 2 if kind is _ODD and draw[2] < 0.03 else 0)
    size = kind.lots[int(draw[3] * len(kind.lots))]
    conditions = kind.conditions[int(draw[4] * len(kind.conditions))]
    return Trade(at_ms * NS_PER_MS, name, _decimal(price, kind.places), size, conditions)


def _decimal(units: int, places: int) -> str:
    """Format a price as a vendor does, without trailing zeros."""
    whole, part = divmod(units, 10**places)
    digits = f"{part:0{places}d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)
