"""The subscriptions of one connection and the feed's refusals. Pure: requests are returned as text."""

from collections.abc import Iterable

from tasks.feeds.base import Feed
from tasks.records.trade import NS_PER_S

# Vendors limit the pace of a client's messages; a hundred a second is usual.
_SINGLE_PER_S = 50


class Subscriptions:
    """The subscriptions of one connection, in the order of their requests.

    `requested` has all of them, `refused` those that the vendor refused, `acknowledged` those that it confirmed.
    While `is_split`, `request_singly` has more to send.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.requested: dict[str, None] = {}
        self.refused: dict[str, None] = {}
        self.acknowledged: set[str] = set()
        self.is_split = False
        self._singly: set[str] = set()
        self._next_single_ns = 0

    def follow(self, wanted: Iterable[str]) -> tuple[list[str], list[str]]:
        """Change to that list; return the newly requested symbols and the requests to send.

        Symbols no longer wanted are unsubscribed first: a freed slot may serve a symbol that was refused before.
        """
        wish = dict.fromkeys(wanted)
        gone = [symbol for symbol in self.requested if symbol not in wish]
        again = [symbol for symbol in self.refused if symbol in wish] if gone else []
        for symbol in (*gone, *again):
            self.requested.pop(symbol)
            self.refused.pop(symbol, None)
            self.acknowledged.discard(symbol)
            self._singly.discard(symbol)
        new = [*again, *(symbol for symbol in wish if symbol not in self.requested and symbol not in again)]
        self.requested.update(dict.fromkeys(new))
        return new, [*self._feed.unsubscribe(gone), *self._feed.subscribe(new)]

    def refuse_last(self, count: int) -> list[str]:
        """Note `count` refusals that name no symbol ("too many symbols"); return the symbols they mean.

        The vendor handles requests in order, so those are the last ones not refused yet.
        """
        return self.refuse([symbol for symbol in self.requested if symbol not in self.refused][-count:])

    def refuse(self, symbols: Iterable[str]) -> list[str]:
        """Note that the vendor refused these symbols; return those of them that were requested."""
        down = [symbol for symbol in symbols if symbol in self.requested]
        self.refused = dict.fromkeys(symbol for symbol in self.requested if symbol in {*self.refused, *down})
        return down

    def acknowledge(self, symbols: Iterable[str]) -> list[str]:
        """Note that the vendor serves these symbols; return those of them that were requested."""
        served = [symbol for symbol in symbols if symbol in self.requested]
        self.acknowledged.update(served)
        return served

    def request_singly(self, now_ns: int) -> list[str]:
        """Return one request per symbol for those that were neither acknowledged nor refused, some each second.

        A request for many symbols may be refused because of one of them. Each symbol is requested alone only once.
        `now_ns` is monotonic.
        """
        if now_ns < self._next_single_ns:
            self.is_split = True
            return []
        known = {*self.refused, *self.acknowledged, *self._singly}
        waiting = [each for each in self.requested if each not in known][:_SINGLE_PER_S]
        self.is_split, self._next_single_ns = bool(waiting), now_ns + NS_PER_S
        self._singly.update(waiting)
        return [request for symbol in waiting for request in self._feed.subscribe([symbol])]

    def renew(self, symbols: Iterable[str]) -> tuple[list[str], list[str]]:
        """Return those of the symbols that were requested, and the requests that end and renew their subscriptions."""
        renewed = [symbol for symbol in symbols if symbol in self.requested]
        return renewed, [*self._feed.unsubscribe(renewed), *self._feed.subscribe(renewed)]

    def unsubscribe_all(self) -> list[str]:
        """Return the requests that end all subscriptions."""
        return self._feed.unsubscribe(self.requested)
