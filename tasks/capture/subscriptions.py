"""What has been asked of the feed on this connection, and what did it turn down? Pure: requests come out as text."""

from collections.abc import Iterable

from tasks.capture import finnhub


class Subscriptions:
    """The subscriptions of one connection, in the order in which they were asked for.

    `asked` are all of them; `refused` those for which the vendor had no slot.
    """

    def __init__(self) -> None:
        self.asked: dict[str, None] = {}
        self.refused: dict[str, None] = {}

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
        new = [*again, *(symbol for symbol in wish if symbol not in self.asked and symbol not in again)]
        self.asked.update(dict.fromkeys(new))
        return new, [*map(finnhub.unsubscribe, gone), *map(finnhub.subscribe, new)]

    def turn_down(self, count: int) -> list[str]:
        """The vendor said `count` times that there are too many symbols, without a name; gives the symbols meant.

        It takes requests in order, so those are the last ones that it has not turned down yet.
        """
        taken = [symbol for symbol in self.asked if symbol not in self.refused]
        down = taken[-count:]
        self.refused = dict.fromkeys(symbol for symbol in self.asked if symbol in {*self.refused, *down})
        return down

    def ask_again(self, symbols: Iterable[str]) -> list[str]:
        """The requests to end and renew subscriptions that bring nothing."""
        return [
            request
            for symbol in symbols
            if symbol in self.asked
            for request in (finnhub.unsubscribe(symbol), finnhub.subscribe(symbol))
        ]

    def end(self) -> list[str]:
        """The requests to end all of them."""
        return list(map(finnhub.unsubscribe, self.asked))
