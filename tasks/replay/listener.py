"""One client's subscriptions and queued messages."""

from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from tasks.replay.counts import ReplayCounts
from tasks.replay.vendor import EventTimes, Vendor


class Listener:
    """One connection: its subscriptions, and the messages that wait to be written."""

    def __init__(self, connection: ServerConnection, vendor: Vendor, max_symbols: int) -> None:
        self.connection = connection
        self.symbols: set[str] = set()
        self.pending_bytes = 0
        self._vendor = vendor
        self._max_symbols = max_symbols
        self._messages: list[bytes] = []
        self._trades: list[str] = []

    def hear(self, message: str | bytes) -> list[str]:
        """Handle a client's message, and return the vendor's answers."""
        return self._vendor.answer(message, self.symbols, self._max_symbols)

    def offer(self, rows: list[Any], times: EventTimes) -> None:
        """Queue the messages of the rows that are subscribed."""
        symbols = self.symbols
        wanted = [row for row in rows if row[1] in symbols]
        if wanted:
            messages = self._vendor.messages(wanted, times)
            self._messages += messages
            self._trades += [row[1] for row in wanted]
            self.pending_bytes += sum(map(len, messages))

    async def flush(self, counts: ReplayCounts, at_ns: int) -> None:
        """Write everything queued in one call, and wait while the client is slower."""
        messages, trades = self._messages, self._trades
        self._messages, self._trades, self.pending_bytes = [], [], 0
        connection = self.connection
        if not messages or connection.state is not State.OPEN:
            return
        for message in messages:
            connection.protocol.send_text(message)
        # `connection.send` writes and waits for each message, which takes half of the time at full speed.
        connection.transport.write(b"".join(connection.protocol.data_to_send()))
        counts.add(trades, len(messages), at_ns)
        try:
            await connection.drain()
        except (ConnectionClosed, OSError):
            return  # the client went away; its own task sees that
