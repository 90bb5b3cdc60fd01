"""Rhythm: detects that the feed, or one symbol, is silent although it usually trades.

A feed can keep its socket open and answer pings, but send no trades for hours. Which silence is unusual depends on the
symbol: its usual interval between trades is learned, and a silence is judged by the number of trades expected in it.
A symbol is judged only while its market is open and once it has traded often enough: a quiet one must not cause
reconnects.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tasks.records.trade import NS_PER_S

# With random arrivals, a silence in which so many trades are expected has odds of e^-100 and e^-200. Real trades come
# in bursts, which make silences more likely; hence the margin.
_FEED_EXPECTED = 100.0
_SYMBOL_EXPECTED = 200.0
_FEED_AT_LEAST_NS = 20 * NS_PER_S
_SYMBOL_AT_LEAST_NS = 60 * NS_PER_S
_KNOWN_AFTER = 30
_WEIGHT = 0.05


@dataclass(frozen=True, slots=True)
class Stall:
    """What is unusual now: the trades expected from the silent feed (None if it is not silent), and silent symbols.

    `again`: the feed is silent on the new connection too; reported once.
    """

    feed_expected: float | None
    symbols: tuple[str, ...]
    again: bool = False


@dataclass(slots=True)
class _Known:
    """One symbol: its trade count, when (monotonic ns) the last ones came, and the usual interval between two."""

    count: int
    last_ns: int
    interval_ns: float = 0.0
    seen: int = 0
    is_reported: bool = False


class Rhythm:
    """Learns from periodic looks at trade counts, off the path of a trade.

    `is_open` returns whether a symbol's market is open at a time (UTC ns). Silences of the whole feed shorter than
    `feed_at_least_ns` are never unusual.
    """

    def __init__(self, is_open: Callable[[str, int], bool], feed_at_least_ns: int = _FEED_AT_LEAST_NS) -> None:
        self._is_open = is_open
        self._feed_at_least_ns = feed_at_least_ns
        self._known: dict[str, _Known] = {}
        self._last_trade_ns: int | None = None
        self._reports = 0  # How often the feed's silence was reported since its last trade.

    def restart(self, mono_ns: int) -> None:
        """Forget silences before now: nothing could be received."""
        self._last_trade_ns = mono_ns
        for known in self._known.values():
            known.last_ns = mono_ns

    def look(self, mono_ns: int, wall_ns: int, counts: Mapping[str, int]) -> Stall:
        """Learn from each symbol's count of trades so far; return what is unusual now."""
        traded = [symbol for symbol, count in counts.items() if self._learn(symbol, count, mono_ns)]
        if traded or self._last_trade_ns is None:
            self._last_trade_ns = mono_ns
        if traded:
            self._reports = 0
        per_ns = {
            symbol: 1 / known.interval_ns
            for symbol in counts
            if (known := self._known[symbol]).seen >= _KNOWN_AFTER and self._is_open(symbol, wall_ns)
        }
        silent_ns = mono_ns - self._last_trade_ns
        expected = sum(per_ns.values()) * silent_ns
        if silent_ns >= self._feed_at_least_ns and expected >= _FEED_EXPECTED and self._reports < 2:
            # If the new connection is as silent, another one would not help: the silence is only noted.
            self._reports += 1
            return Stall(expected, (), again=self._reports == 2)
        if self._reports:  # The silence of all is reported; that of each symbol need not be.
            return Stall(None, ())
        return Stall(None, tuple(symbol for symbol, rate in per_ns.items() if self._is_unusual(symbol, rate, mono_ns)))

    def _learn(self, symbol: str, count: int, mono_ns: int) -> bool:
        known = self._known.setdefault(symbol, _Known(count, mono_ns))
        new = count - known.count
        if new <= 0:
            return False
        interval_ns = max(1.0, (mono_ns - known.last_ns) / new)
        weight = max(_WEIGHT, 1 / (known.seen + 1))
        known.interval_ns += (interval_ns - known.interval_ns) * weight
        known.count, known.last_ns, known.is_reported = count, mono_ns, False
        known.seen += new
        return True

    def _is_unusual(self, symbol: str, rate: float, mono_ns: int) -> bool:
        """Return whether this symbol alone is silent; true once per silence."""
        known = self._known[symbol]
        silent_ns = mono_ns - known.last_ns
        if known.is_reported or silent_ns < _SYMBOL_AT_LEAST_NS or rate * silent_ns < _SYMBOL_EXPECTED:
            return False
        known.is_reported = True
        return True
