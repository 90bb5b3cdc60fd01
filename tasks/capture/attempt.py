"""How is a try to connect bounded as a whole, and ended with all that it has opened when its time is over?

Each step has its own time limit, but not their sum: a peer that sends a byte now and then keeps every single wait
short, for ever. So a try runs in a thread of its own; who waits for it leaves at its time, and closes the connection
under it, which ends the thread.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from tasks.errors import TransientError

_LOOK_EVERY_S = 0.1

Result = TypeVar("Result")


class Attempt(threading.Thread, Generic[Result]):
    """Runs `work`, which hands over each connection that it makes to `hold` and looks at `given_up` where it waits."""

    def __init__(self, work: "Callable[[Attempt[Result]], Result]", end_s: float) -> None:
        super().__init__(name="connect", daemon=True)
        self.end_s = end_s
        self.given_up = threading.Event()
        self.outcome: Future[Result] = Future()
        self._work = work
        self._lock = threading.Lock()
        self._held: socket.socket | None = None

    def hold(self, connected: socket.socket) -> None:
        """Have this connection end when the attempt is abandoned. Raises TimeoutError where it is already."""
        with self._lock:
            if self.given_up.is_set():
                raise TimeoutError
            # A descriptor of our own: TLS takes the socket over, and its number may be another's by then.
            self._held = connected.dup()

    def abandon(self) -> None:
        """End the attempt: its thread ends within moments, whatever the peer does."""
        self.given_up.set()
        with self._lock:
            if self._held is not None:
                with contextlib.suppress(OSError):
                    self._held.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        try:
            result = self._work(self)
        except BaseException as error:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(result)
        finally:
            with self._lock:
                if self._held is not None:
                    self._held.close()
                    self._held = None


def within(
    timeout_s: float,
    given_up: threading.Event | None,
    work: Callable[[Attempt[Result]], Result],
    discard: Callable[[Result], object],
) -> Result:
    """What `work` gives, within that time and unless it is given up; what it gives later is discarded.

    Raises TransientError where the time is over or it is given up, else what `work` raises.
    """
    attempt = Attempt(work, time.monotonic() + timeout_s)
    attempt.start()
    while not attempt.outcome.done() and not (given_up is not None and given_up.is_set()):
        left_s = attempt.end_s - time.monotonic()
        if left_s <= 0:
            break
        wait([attempt.outcome], min(left_s, _LOOK_EVERY_S))
    if attempt.outcome.done():
        return attempt.outcome.result()
    attempt.abandon()
    attempt.outcome.add_done_callback(lambda late: discard(late.result()) if late.exception() is None else None)
    raise TransientError("no connection: it took too long")
