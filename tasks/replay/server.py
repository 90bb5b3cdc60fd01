"""Serves a tape as a vendor's websocket.

It listens on loopback only. If the vendor requires a token, `/?token=KEY` admits one connection per token. Only
subscribed symbols are sent.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from tasks.errors import TerminalError
from tasks.records.trade import NS_PER_MS
from tasks.replay.counts import ReplayCounts
from tasks.replay.listener import Listener
from tasks.replay.pace import Group, groups
from tasks.replay.tape_file import TapeRow
from tasks.replay.vendor import EventTimes, Vendor
from tasks.replay.vendors import VENDORS

HOST = "127.0.0.1"
_FLUSH_BYTES = 1 << 16

# At debug level the library logs each request line, which contains the token.
_log = logging.getLogger("tasks.replay.server")
_log.setLevel(logging.INFO)


@dataclass(frozen=True, slots=True)
class Clock:
    """A replay's source of time: UTC ns, monotonic ns, and a function that sleeps for some seconds."""

    wall_ns: Callable[[], int] = time.time_ns
    monotonic_ns: Callable[[], int] = time.monotonic_ns
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """How a tape is served. `speed` is a multiple of real time; None is as fast as the client reads.

    Trades in the same `tick_s` of the tape (times the speed) are sent together, at most `trades_a_message` per message.
    Time starts when a client has subscribed and then sent nothing for `settle_s`, at the latest after `settle_most_s`.
    `key` is the only accepted token; None accepts any. `feed` names the vendor; `beat_every_s` overrides its interval
    of pings or heartbeats.
    """

    speed: float | None = 1.0
    original_times: bool = False
    exit_at_end: bool = False
    key: str | None = field(default=None, repr=False)
    max_symbols: int = 50
    feed: str = "finnhub"
    beat_every_s: float | None = None
    tick_s: float = 0.05
    trades_a_message: int = 100
    settle_s: float = 0.25
    settle_most_s: float = 2.0
    leave_within_s: float = 60.0


class ReplayServer:
    """Serves one tape once. Call its methods in one event loop; `counts` may be read from any thread."""

    def __init__(self, tape: Iterable[list[TapeRow]], options: ReplayOptions, clock: Clock | None = None) -> None:
        self.counts = ReplayCounts()
        self._tape = tape
        self._options = options
        self._clock = clock or Clock()
        self._vendor: Vendor = VENDORS[options.feed]()
        self._by_token: dict[str, ServerConnection] = {}
        self._listeners: list[Listener] = []
        self._subscribed = asyncio.Event()
        self._last_heard_s = 0.0
        self._stop = asyncio.Event()

    async def serve(self, port: int, on_listening: Callable[[str], None], on_end: Callable[[], None]) -> None:
        """Serve until stopped, or, with `exit_at_end`, until everything is sent and the clients have disconnected.

        Calls `on_listening` with the URL, without a token, when clients can connect, and `on_end` when the last trade
        is sent. Raises TerminalError if the port is taken or the tape is invalid.
        """
        try:
            server = await self._listen(port)
        except OSError as error:
            text = f"{HOST}:{port}: cannot listen there ({error.strerror}); choose another port, or 0 for a free one"
            raise TerminalError(text) from error
        async with server:
            on_listening(f"ws://{HOST}:{next(iter(server.sockets)).getsockname()[1]}")
            await self._play_or_stop(on_end)

    def stop(self) -> None:
        """Close every connection and end `serve`."""
        self._stop.set()

    async def _listen(self, port: int) -> Server:
        return await serve(
            self._attend,
            HOST,
            port,
            process_request=self._admit,
            compression=None,
            ping_interval=None,
            close_timeout=self._options.leave_within_s,
            max_size=1 << 16,
            logger=_log,
        )

    async def _play_or_stop(self, on_end: Callable[[], None]) -> None:
        play = asyncio.create_task(self._play(on_end))
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((play, stop), return_when=asyncio.FIRST_COMPLETED)
            if play.done():
                await play  # re-raises its error
                if not self._options.exit_at_end:
                    await stop
        finally:
            for task in (play, stop):
                task.cancel()
            await asyncio.gather(play, stop, return_exceptions=True)

    # A connection

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        if not self._vendor.needs_token:
            return None
        token = parse_qs(urlsplit(request.path).query).get("token", [""])[0]
        if not token or self._options.key not in (None, token):
            self.counts.refused += 1
            return connection.respond(HTTPStatus.UNAUTHORIZED, "Invalid API key.\n")
        holder = self._by_token.get(token)
        if holder is not None and holder.state is not State.CLOSED:
            self.counts.refused += 1
            return connection.respond(HTTPStatus.TOO_MANY_REQUESTS, "One connection for one API key.\n")
        self._by_token[token] = connection
        return None

    async def _attend(self, connection: ServerConnection) -> None:
        self.counts.connections += 1
        listener = Listener(connection, self._vendor, self._options.max_symbols)
        self._listeners.append(listener)
        pings = asyncio.create_task(self._beat(listener))
        try:
            async for message in connection:
                answers = listener.hear(message)
                self._note_subscriptions()
                for answer in answers:
                    await connection.send(answer)
        except ConnectionClosed:
            pass  # without a close frame, which the vendor accepts too
        finally:
            pings.cancel()
            self._listeners.remove(listener)
            self._note_subscriptions()

    async def _beat(self, listener: Listener) -> None:
        every_s = self._options.beat_every_s or self._vendor.beat_every_s
        try:
            while True:
                await asyncio.sleep(every_s)
                for message in self._vendor.beat(listener.symbols, self._clock.wall_ns() // NS_PER_MS):
                    await listener.connection.send(message, text=True)
        except ConnectionClosed:
            return

    def _note_subscriptions(self) -> None:
        self._last_heard_s = asyncio.get_running_loop().time()
        if any(listener.symbols for listener in self._listeners):
            self._subscribed.set()
        else:
            self._subscribed.clear()

    # The tape

    async def _play(self, on_end: Callable[[], None]) -> None:
        options, clock = self._options, self._clock
        speed = options.speed or math.inf
        tick_ms = max(1, round(1000 * options.tick_s * (options.speed or 1)))
        await self._until_subscribed()
        start_ns, start_ms = clock.monotonic_ns(), clock.wall_ns() // NS_PER_MS
        tape_ms: int | None = None
        for group in groups(self._tape, tick_ms, options.trades_a_message):
            tape_ms = group.rows[0][0] if tape_ms is None else tape_ms
            due_ns = start_ns + int((group.due_ms - tape_ms) / speed * NS_PER_MS)
            await self._until_due(due_ns)
            self._offer(group, self._event_times(start_ms, tape_ms, speed))
            if any(listener.pending_bytes >= _FLUSH_BYTES for listener in self._listeners):
                await self._flush()
        await self._flush()
        on_end()
        if options.exit_at_end:
            await asyncio.gather(*(listener.connection.close() for listener in self._listeners))

    def _event_times(self, start_ms: int, tape_ms: int, speed: float) -> EventTimes:
        if self._options.original_times:
            return EventTimes(tape_ms, tape_ms, 1)
        if self._options.speed is None:
            return EventTimes(self._clock.wall_ns() // NS_PER_MS, tape_ms, speed)
        return EventTimes(start_ms, tape_ms, speed)

    async def _until_subscribed(self) -> None:
        """Wait for a subscription and the end of its burst, so that no subscription comes too late."""
        now_s = asyncio.get_running_loop().time
        while not self._subscribed.is_set():
            await self._subscribed.wait()
            latest_s = now_s() + self._options.settle_most_s
            while (wait_s := min(self._last_heard_s + self._options.settle_s, latest_s) - now_s()) > 0:
                await asyncio.sleep(wait_s)

    async def _until_due(self, due_ns: int) -> None:
        if self._options.speed is None:
            if not self._subscribed.is_set():
                await self._flush()
                await self._until_subscribed()
        elif (wait_ns := due_ns - self._clock.monotonic_ns()) > 0:
            await self._flush()
            await self._clock.sleep(wait_ns / 1e9)

    def _offer(self, group: Group, times: EventTimes) -> None:
        rows = self._vendor.numbered(group.rows, times)
        for listener in self._listeners:
            if listener.symbols:
                listener.offer(rows, times)

    async def _flush(self) -> None:
        now_ns = self._clock.wall_ns()
        for listener in tuple(self._listeners):
            await listener.flush(self.counts, now_ns)
        await asyncio.sleep(0)  # otherwise the messages of a fast client would never be read
