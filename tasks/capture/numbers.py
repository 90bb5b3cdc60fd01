"""Names what a feed that numbers its trades did not deliver, while it is recorded.

Every missing number then lies in a gap: in one that is known already, such as that of a lost connection, or in one of
its own from the trade before the missing number to the trade after it.
"""

import logging
from collections.abc import Iterator

from tasks.capture.gaps import GapBook
from tasks.feeds.base import Reading
from tasks.records.gaps import overlaps
from tasks.records.manifest import MissingIds

log = logging.getLogger(__name__)

# A feed whose numbers have holes again and again must not fill the disk with gaps: then one gap lasts.
_MOST_HOLES = 1_000
_TOO_MANY = "trade numbers are missing again and again"


class Sequence:
    """Follows the numbers of each symbol. Pure.

    A message that tells the newest number, such as a heartbeat, may overtake a trade: what it tells is missing where
    the trade has not come by the next of these messages. Where it has, nothing was missing when it was told: a later
    hole begins there.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int]] = {}
        self._told: dict[str, tuple[int, int]] = {}

    def holes(self, reading: Reading, ts_recv_ns: int) -> Iterator[MissingIds]:
        """Yield the holes that these messages, received at `ts_recv_ns` (UTC ns), show."""
        for symbol, number in reading.before_ids.items():
            self._last.setdefault(symbol, (number, ts_recv_ns))
        for symbol, number in zip(reading.symbols, reading.trade_ids, strict=True):
            yield from self._reach(symbol, number, number - 1, ts_recv_ns)
        for symbol, number in reading.last_ids.items():
            (told, told_ns), self._told[symbol] = self._told.get(symbol, (0, 0)), (number, ts_recv_ns)
            self._last.setdefault(symbol, (number, ts_recv_ns))
            yield from self._reach(symbol, told, told, ts_recv_ns)
            last, since_ns = self._last[symbol]
            if last == told:
                self._last[symbol] = (last, max(since_ns, told_ns))

    def _reach(self, symbol: str, number: int, missing_to: int, now_ns: int) -> Iterator[MissingIds]:
        last, since_ns = self._last.get(symbol, (missing_to, now_ns))
        if missing_to > last:
            yield MissingIds(symbol, last + 1, missing_to, since_ns, now_ns)
        if number > last or symbol not in self._last:
            self._last[symbol] = (number, now_ns)


class MissingNumbers:
    """Writes the holes of a session into its gaps."""

    def __init__(self, gaps: GapBook) -> None:
        self._gaps = gaps
        self._sequence = Sequence()
        self._named = 0

    def note(self, reading: Reading, ts_recv_ns: int) -> None:
        """Name what these messages show to be missing. Raises OSError where the gaps cannot be written."""
        for hole in self._sequence.holes(reading, ts_recv_ns):
            if not any(hole.symbol in gap.symbols and overlaps(gap, *hole.span_ns) for gap in self._gaps.all()):
                self._name(hole)

    def _name(self, hole: MissingIds) -> None:
        self._named += 1
        if self._named > _MOST_HOLES:
            self._gaps.open((hole.symbol,), hole.after_ns, _TOO_MANY)
            return
        reason = f"trade numbers {hole.first_id} to {hole.last_id} are missing"
        log.warning("%s: %s", hole.symbol, reason)
        self._gaps.add((hole.symbol,), *hole.span_ns, reason)
