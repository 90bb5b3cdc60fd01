"""What does one client want to hear, and what is on its way to it?"""

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from tasks.replay.counts import ReplayCounts
from tasks.replay.tape_file import TapeRow
from tasks.replay.vendor import TOO_MANY_SYMBOLS, EventTimes, TradeWriter, error_message, read_request


class Listener:
    """One connection: its subscriptions and the messages that wait to be written."""

    def __init__(self, connection: ServerConnection, max_symbols: int) -> None:
        self.connection = connection
        self.symbols: set[str] = set()
        self.pending_bytes = 0
        self._max_symbols = max_symbols
        self._messages: list[bytes] = []
        self._trades: list[str] = []

    def hear(self, message: str | bytes) -> str | None:
        """Do what the client says, and return the vendor's answer, if any."""
        try:
            request = read_request(message)
        except ValueError as error:
            return error_message(str(error))
        if request is None:
            return None
        if request.kind == "unsubscribe":
            self.symbols.discard(request.symbol)
        elif request.symbol not in self.symbols and len(self.symbols) >= self._max_symbols:
            return error_message(TOO_MANY_SYMBOLS)
        else:
            self.symbols.add(request.symbol)
        return None

    def offer(self, rows: list[TapeRow], times: EventTimes, writer: TradeWriter) -> None:
        """Queue a message of those rows that are subscribed."""
        symbols = self.symbols
        wanted = [row for row in rows if row[1] in symbols]
        if wanted:
            message = writer.message(wanted, times)
            self._messages.append(message)
            self._trades += [row[1] for row in wanted]
            self.pending_bytes += len(message)

    async def flush(self, counts: ReplayCounts, at_ns: int) -> None:
        """Write what is queued, in one call, and wait while the client is slower than we are."""
        messages, trades = self._messages, self._trades
        self._messages, self._trades, self.pending_bytes = [], [], 0
        connection = self.connection
        if not messages or connection.state is not State.OPEN:
            return
        for message in messages:
            connection.protocol.send_text(message)
        # `connection.send` writes and waits for each message: half of the time of a replay at full speed.
        connection.transport.write(b"".join(connection.protocol.data_to_send()))
        counts.add(trades, len(messages), at_ns)
        try:
            await connection.drain()
        except (ConnectionClosed, OSError):
            return  # the client went away; its own task sees that
