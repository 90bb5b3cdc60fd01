"""In which lane does a symbol travel, and whose midnights end that lane's batches?

Symbols that never close have days of UTC, the others days of their exchange; a batch has one date, so the two kinds
travel apart, each kind in lanes of its own.
"""

from collections.abc import Sequence
from typing import Literal
from zlib import crc32

from tasks.feeds.registry import never_closes
from tasks.zones import UTC


def lanes_for(feed: str, symbols: Sequence[str], lanes: int | Literal["ticker"]) -> int:
    """How many lanes a session of these symbols gets: as asked, none of them idle, and one for each kind at least."""
    kinds = len({never_closes(feed, symbol) for symbol in symbols})
    return len(symbols) if lanes == "ticker" else max(min(lanes, len(symbols)), kinds)


class Routes:
    """The lanes of one session, of a number that `lanes_for` gave; the last ones are those of UTC days.

    Symbols take the lanes of their kind in turn. A symbol of a kind that the session began without travels with the
    others, and is dated as they are: that it is recorded matters more than in which folder.
    """

    def __init__(self, feed: str, symbols: Sequence[str], lanes: int, zone: str) -> None:
        self._feed = feed
        never = [each for each in symbols if never_closes(feed, each)]
        closing = [each for each in symbols if not never_closes(feed, each)]
        count = round(lanes * len(never) / max(1, len(symbols)))
        # With one lane for both kinds, as of a request that asked for no more, days are the exchange's.
        count = min(max(count, bool(never)), lanes - bool(closing))
        first_utc = lanes - count
        self._of_kind = {
            False: range(first_utc) or range(lanes),
            True: range(first_utc, lanes) if count else range(lanes),
        }
        self._lane_of = {
            symbol: self._of_kind[kind][index % len(self._of_kind[kind])]
            for kind, some in ((False, closing), (True, never))
            for index, symbol in enumerate(some)
        }
        self.zones = tuple(UTC if lane >= first_utc else zone for lane in range(lanes))

    def lane(self, symbol: str) -> int:
        """The number of the symbol's lane, from 0."""
        known = self._lane_of.get(symbol)
        if known is not None:
            return known
        # A symbol that was not asked for is not remembered: a feed that invents them must not fill the memory.
        lanes = self._of_kind[never_closes(self._feed, symbol)]
        return lanes[crc32(symbol.encode()) % len(lanes)]
