"""What has been asked of the feed on this connection, and what did it turn down? Pure: requests come out as text."""

from collections.abc import Iterable

from tasks.feeds.base import Feed


class Subscriptions:
    """The subscriptions of one connection, in the order in which they were asked for.

    `asked` are all of them; `refused` those that the vendor would not serve; `acknowledged` those that it confirmed.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.asked: dict[str, None] = {}
        self.refused: dict[str, None] = {}
        self.acknowledged: set[str] = set()
        self._singly: set[str] = set()

    def follow(self, wanted: Iterable[str]) -> tuple[list[str], list[str]]:
        """Move to that list: gives the symbols newly asked for, and the requests to send.

        What is no longer wanted goes first: a slot that comes free serves a symbol that had been refused.
        """
        wish = dict.fromkeys(wanted)
        gone = [symbol for symbol in self.asked if symbol not in wish]
        again = [symbol for symbol in self.refused if symbol in wish] if gone else []
        for symbol in (*gone, *again):
            self.asked.pop(symbol)
            self.refused.pop(symbol, None)
            self.acknowledged.discard(symbol)
            self._singly.discard(symbol)
        new = [*again, *(symbol for symbol in wish if symbol not in self.asked and symbol not in again)]
        self.asked.update(dict.fromkeys(new))
        return new, [*self._feed.unsubscribe(gone), *self._feed.subscribe(new)]

    def turn_down(self, count: int) -> list[str]:
        """The vendor said `count` times that there are too many symbols, without a name; gives the symbols meant.

        It takes requests in order, so those are the last ones that it has not turned down yet.
        """
        return self.refuse([symbol for symbol in self.asked if symbol not in self.refused][-count:])

    def refuse(self, symbols: Iterable[str]) -> list[str]:
        """The vendor will not serve these symbols; gives those of them that were asked for."""
        down = [symbol for symbol in symbols if symbol in self.asked]
        self.refused = dict.fromkeys(symbol for symbol in self.asked if symbol in {*self.refused, *down})
        return down

    def acknowledge(self, symbols: Iterable[str]) -> list[str]:
        """Note that the vendor serves these symbols; return those of them that were requested."""
        served = [symbol for symbol in symbols if symbol in self.asked]
        self.acknowledged.update(served)
        return served

    def ask_singly(self) -> list[str]:
        """The requests, one a symbol, for what was neither acknowledged nor refused: one request may ask for many.

        Each symbol is asked for once so: the refusal of one concerns no other then.
        """
        known = {*self.refused, *self.acknowledged, *self._singly}
        waiting = [each for each in self.asked if each not in known]
        self._singly.update(waiting)
        return [request for symbol in waiting for request in self._feed.subscribe([symbol])]

    def ask_again(self, symbols: Iterable[str]) -> list[str]:
        """The requests to end and renew subscriptions that bring nothing."""
        asked = [symbol for symbol in symbols if symbol in self.asked]
        return [*self._feed.unsubscribe(asked), *self._feed.subscribe(asked)]

    def end(self) -> list[str]:
        """The requests to end all of them."""
        return self._feed.unsubscribe(self.asked)
