"""Has the feed, or one symbol, fallen silent against its own rhythm?

A feed can keep its socket open and answer pings, and send no trades for hours. How long a silence is strange depends
on the symbol: each one's usual interval between trades is learnt, and a silence is judged by how many trades it
should have brought. A symbol is judged only while its market trades, and one that has hardly spoken yet is not judged
at all: a quiet one must not cause reconnects.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tasks.records.trade import NS_PER_S

# A silence of random arrivals that should have brought so many trades has odds of e^-100 and e^-200; bursts are
# kinder to silence than randomness is, hence the distance.
_FEED_EXPECTED = 100.0
_SYMBOL_EXPECTED = 200.0
_FEED_AT_LEAST_NS = 20 * NS_PER_S
_SYMBOL_AT_LEAST_NS = 60 * NS_PER_S
_KNOWN_AFTER = 30
_WEIGHT = 0.05


@dataclass(frozen=True, slots=True)
class StallDetector:
    """What is strange now: trades that the whole feed should have brought (None: nothing strange), silent symbols.

    `again`: the feed is as silent on the new connection that its silence led to; said once.
    """

    feed_expected: float | None
    symbols: tuple[str, ...]
    again: bool = False


@dataclass(slots=True)
class _Known:
    """One symbol: trades counted, when (monotonic ns) the last ones came, the usual interval between two."""

    count: int
    last_ns: int
    interval_ns: float = 0.0
    seen: int = 0
    told: bool = False


class Rhythm:
    """Learns from counts that are looked at now and then; a look costs nothing on the way of a trade.

    `is_open` says whether a symbol's market trades at a time (UTC ns); `feed_at_least_ns` is the shortest silence of
    the whole feed that can be strange.
    """

    def __init__(self, is_open: Callable[[str, int], bool], feed_at_least_ns: int = _FEED_AT_LEAST_NS) -> None:
        self._is_open = is_open
        self._feed_at_least_ns = feed_at_least_ns
        self._known: dict[str, _Known] = {}
        self._heard_ns: int | None = None
        self._told = 0  # How often the feed's silence was told since its last trade.

    def restart(self, mono_ns: int) -> None:
        """The feed could not be heard until now: no silence before counts."""
        self._heard_ns = mono_ns
        for known in self._known.values():
            known.last_ns = mono_ns

    def look(self, mono_ns: int, wall_ns: int, counts: Mapping[str, int]) -> StallDetector:
        """Learn from each symbol's count of trades so far, and say what is strange at this moment."""
        heard = [symbol for symbol, count in counts.items() if self._learn(symbol, count, mono_ns)]
        if heard or self._heard_ns is None:
            self._heard_ns = mono_ns
        if heard:
            self._told = 0
        per_ns = {
            symbol: 1 / known.interval_ns
            for symbol in counts
            if (known := self._known[symbol]).seen >= _KNOWN_AFTER and self._is_open(symbol, wall_ns)
        }
        silent_ns = mono_ns - self._heard_ns
        expected = sum(per_ns.values()) * silent_ns
        if silent_ns >= self._feed_at_least_ns and expected >= _FEED_EXPECTED and self._told < 2:
            # Where the new connection is as silent, another would not mend it: the silence is noted instead.
            self._told += 1
            return StallDetector(expected, (), again=self._told == 2)
        if self._told:  # The silence of all is told; it need not be told of each.
            return StallDetector(None, ())
        return StallDetector(
            None, tuple(symbol for symbol, rate in per_ns.items() if self._is_strange(symbol, rate, mono_ns))
        )

    def _learn(self, symbol: str, count: int, mono_ns: int) -> bool:
        known = self._known.setdefault(symbol, _Known(count, mono_ns))
        new = count - known.count
        if new <= 0:
            return False
        interval_ns = max(1.0, (mono_ns - known.last_ns) / new)
        weight = max(_WEIGHT, 1 / (known.seen + 1))
        known.interval_ns += (interval_ns - known.interval_ns) * weight
        known.count, known.last_ns, known.told = count, mono_ns, False
        known.seen += new
        return True

    def _is_strange(self, symbol: str, rate: float, mono_ns: int) -> bool:
        """Whether this symbol alone is silent; said once for each silence."""
        known = self._known[symbol]
        silent_ns = mono_ns - known.last_ns
        if known.told or silent_ns < _SYMBOL_AT_LEAST_NS or rate * silent_ns < _SYMBOL_EXPECTED:
            return False
        known.told = True
        return True
