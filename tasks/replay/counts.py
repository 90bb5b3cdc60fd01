"""Counts of what a replay sent."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class ReplayCounts:
    """Trades and messages written to clients' sockets; times are UTC ns.

    A trade counts once its message is written to the socket. Messages that a client did not read before it disconnected
    count too, because the server cannot know.
    """

    trades: int = 0
    messages: int = 0
    connections: int = 0
    refused: int = 0
    first_ns: int | None = None
    last_ns: int | None = None
    per_symbol: Counter[str] = field(default_factory=Counter)

    def add(self, symbols: list[str], messages: int, at_ns: int) -> None:
        """Count one write: the symbol of each trade, and the messages."""
        self.trades += len(symbols)
        self.messages += messages
        self.per_symbol.update(symbols)
        self.first_ns = at_ns if self.first_ns is None else self.first_ns
        self.last_ns = at_ns

    def __str__(self) -> str:
        took_s = ((self.last_ns or 0) - (self.first_ns or 0)) / 1e9
        return (
            f"sent {self.trades:,} trades of {len(self.per_symbol):,} symbols in {self.messages:,} messages"
            f" over {took_s:.1f} s; {self.connections:,} connections, {self.refused:,} refused"
        )
