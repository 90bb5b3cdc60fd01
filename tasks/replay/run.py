"""Runs a replay from a script or a test."""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path

from tasks.records.trade import Trade
from tasks.replay.counts import ReplayCounts
from tasks.replay.server import Clock, ReplayOptions, ReplayServer
from tasks.replay.tape_file import TapeRow, read_tape, row_of

_ROWS_PER_BLOCK = 4096
_START_WITHIN_S = 30


def run(
    tape: Path,
    port: int = 0,
    options: ReplayOptions | None = None,
    announce: Callable[[str], None] = lambda line: print(line, flush=True),
) -> ReplayCounts:
    """Serve a tape until SIGINT or SIGTERM, or to its end with `options.exit_at_end`. Port 0 picks a free one.

    Announces the URL, without a token, on the first line, and what was sent on the last. Raises TerminalError if the
    port is taken or the tape cannot be read, at once if its beginning is bad.
    """
    return asyncio.run(_run(_checked(read_tape(tape)), port, options or ReplayOptions(), announce))


async def _run(
    blocks: Iterable[list[TapeRow]], port: int, options: ReplayOptions, announce: Callable[[str], None]
) -> ReplayCounts:
    server = ReplayServer(blocks, options)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    try:
        await server.serve(port, announce, lambda: None)
    finally:
        announce(str(server.counts))
    return server.counts


class Replay:
    """A replay in a thread of this process."""

    def __init__(self, tape: Path | Iterable[Trade], port: int, options: ReplayOptions, clock: Clock | None) -> None:
        self.url = ""
        self.counts = ReplayCounts()
        self.ended = threading.Event()
        self._listening = threading.Event()
        self._error: BaseException | None = None
        serving = self._serve(tape, port, options, clock)
        self._thread = threading.Thread(target=self._main, args=(serving,), name="replay")
        self._thread.start()
        self._listening.wait(_START_WITHIN_S)
        self._raise_error()

    @property
    def sent(self) -> int:
        """Trades written to clients' sockets so far."""
        return self.counts.trades

    def stop(self) -> None:
        """Close every connection, stop, and raise the replay's error, if any. May be called twice."""
        with suppress(RuntimeError):  # its loop has already ended
            self._loop.call_soon_threadsafe(self._server.stop)
        self.join()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until the replay has ended, as it does with `exit_at_end`. Raises TimeoutError."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"the replay is still running after {timeout_s} s")
        self._raise_error()

    def _main(self, serving: Coroutine[None, None, None]) -> None:
        try:
            asyncio.run(serving)
        except BaseException as error:
            self._error = error
        finally:
            self._listening.set()
            self.ended.set()

    async def _serve(
        self, tape: Path | Iterable[Trade], port: int, options: ReplayOptions, clock: Clock | None
    ) -> None:
        blocks = read_tape(tape) if isinstance(tape, Path) else _blocks(tape)
        self._loop = asyncio.get_running_loop()
        self._server = ReplayServer(_checked(blocks), options, clock)
        self.counts = self._server.counts
        await self._server.serve(port, self._announce, self.ended.set)

    def _announce(self, url: str) -> None:
        self.url = url
        self._listening.set()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error


@contextmanager
def serve_in_thread(
    tape: Path | Iterable[Trade],
    options: ReplayOptions | None = None,
    *,
    port: int = 0,
    clock: Clock | None = None,
) -> Iterator[Replay]:
    """Serve a tape from a file or from memory while the block runs. Raises TerminalError as `run` does."""
    replay = Replay(tape, port, options or ReplayOptions(speed=None), clock)
    try:
        yield replay
    finally:
        replay.stop()


def _checked(blocks: Iterator[list[TapeRow]]) -> Iterator[list[TapeRow]]:
    """Read the first block early, so that an invalid tape fails before a client connects."""
    return chain(list(islice(blocks, 1)), blocks)


def _blocks(trades: Iterable[Trade]) -> Iterator[list[TapeRow]]:
    rows = map(row_of, trades)
    while block := list(islice(rows, _ROWS_PER_BLOCK)):
        yield block
