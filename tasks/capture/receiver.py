"""Receiver: reads one connection until it is lost or the session ends.

It stamps what arrives, cuts it into messages, hands them on, answers pings, and leaves in order.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence

from tasks.capture.clock import Clock
from tasks.capture.continuity import Continuity
from tasks.capture.feed import Chunk, Connection
from tasks.capture.frames import CLOSE, PING, PONG, Cut, FrameCutter
from tasks.capture.request import CaptureRequest
from tasks.capture.routes import Received
from tasks.errors import TransientError
from tasks.records.trade import NS_PER_S

log = logging.getLogger(__name__)

# While leaving: how long the peer may be silent.
_GOODBYE_S = 3.0
# The close code for "another connection on this key", among others.
_POLICY_VIOLATION = 1008
_LAST_PING = b"last"


class Receiver:
    """Receives what one connection brings, on the connection's thread. `put` blocks while the queues are full.

    `was_crowded` says whether the feed closed the connection as one too many.
    """

    def __init__(
        self,
        connection: Connection,
        number: int,
        request: CaptureRequest,
        clock: Clock,
        continuity: Continuity,
        put: Callable[[Sequence[Received]], None],
    ) -> None:
        self.was_crowded = False
        self._connection = connection
        self._number = number
        self._clock = clock
        self._ping_every_s = request.ping_every_s
        self._leave_within_s = request.leave_within_s
        self._continuity = continuity
        self._put = put
        self._cutter = FrameCutter(request.max_message_bytes)
        self._is_leaving = False
        self._blocked_ns = 0
        self._pong: bytes | None = None

    def receive(self, stopping: threading.Event, between: Callable[[bool], None]) -> str | None:
        """Hand on what arrives; return why the connection ended, or None once `stopping` is set.

        `between` is called after each read, with whether it found nothing. Raises TransientError if the connection
        broke; `read_rest` comes next.
        """
        every_ns = int(self._ping_every_s * NS_PER_S)
        last_ns = self._clock.monotonic_ns()
        is_pinged = False
        while not stopping.is_set():
            quiet_ns = self._clock.monotonic_ns() - last_ns
            if quiet_ns >= (2 if is_pinged else 1) * every_ns:
                if is_pinged:
                    return f"no answer to a ping within {self._ping_every_s:g} s"
                self._connection.ping(b"")
                is_pinged = True
            chunk = self._connection.read(((2 if is_pinged else 1) * every_ns - quiet_ns) / NS_PER_S)
            if chunk is not None:
                reason = self._take(self._connection.gather(chunk, self._clock.wall_ns))
                if reason is not None:
                    self._continuity.ended_in_order()
                    return reason
                last_ns, is_pinged = self._clock.monotonic_ns(), False
            if self._continuity.silence is not None:
                return self._continuity.silence[1]
            between(chunk is None)
        return None

    def leave(self, requests: Sequence[str]) -> None:
        """Send these last requests, receive what is in flight, and close.

        TCP keeps the order: once the pong to a ping sent after the last request is here, so is everything that was
        sent before it. If the connection is lost meanwhile, what it had sent before is still received.
        """
        self._is_leaving = True
        ends_ns = self._leave_until_ns()
        try:
            for request in requests:
                self._connection.send_text(request)
            self._connection.ping(_LAST_PING)
            if self._drain(ends_ns, until_pong=_LAST_PING):
                self._connection.say_goodbye(1000)
                self._drain(ends_ns, until_pong=None)
        except TransientError as error:
            log.warning("while leaving: %s", error)
            self.read_rest()

    def read_rest(self) -> None:
        """Receive what had arrived before the connection broke, for a limited time."""
        ends_ns = self._leave_until_ns()
        with contextlib.suppress(TransientError):
            while (chunk := self._connection.read(0.0)) and self._clock.monotonic_ns() - self._blocked_ns < ends_ns:
                if self._take_one(chunk) is not None:
                    return

    def _leave_until_ns(self) -> int:
        """Return the end of the time to leave. Time spent waiting for the journal is not the peer's: it is excluded."""
        return self._clock.monotonic_ns() - self._blocked_ns + int(self._leave_within_s * NS_PER_S)

    def _drain(self, ends_ns: int, until_pong: bytes | None) -> bool:
        """Receive until that pong; returns False if the peer has ended, or has sent on for too long, before it.

        A peer that stays silent counts as done with sending.
        """
        self._pong = None
        while until_pong is None or self._pong != until_pong:
            last_ns = self._clock.monotonic_ns()
            if last_ns - self._blocked_ns > ends_ns:
                log.warning("the feed still sends %g s after the last request", self._leave_within_s)
                return False
            chunk = self._connection.read(_GOODBYE_S)
            while chunk is None and self._clock.monotonic_ns() - last_ns < _GOODBYE_S * NS_PER_S:
                chunk = self._connection.read(_GOODBYE_S)
            if chunk is None:
                log.warning("the feed did not answer the goodbye within %g s", _GOODBYE_S)
                return until_pong is not None
            if self._take_one(chunk) is not None:
                return False
        return True

    def _take_one(self, chunk: bytes) -> str | None:
        return self._take([(self._clock.wall_ns(), chunk, self._connection.was_empty)])

    def _take(self, chunks: Sequence[Chunk]) -> str | None:
        """Hand on what these chunks complete and answer pings; return the reason if the peer ends the connection."""
        controls: list[Cut] = []
        received: list[Received] = []
        for read_ns, chunk, was_empty in chunks:
            ts_recv_ns = self._continuity.read(read_ns, was_empty)
            if not chunk:
                return "the feed ended the connection without a close frame"
            cut = self._cutter.cut(chunk)
            self._continuity.cut(bool(cut.texts or cut.binaries), self._cutter.is_within_message)
            if cut.frames:
                received.append(Received(self._number, ts_recv_ns, self._continuity.through_ns, cut))
                if cut.controls or cut.violation is not None:
                    controls.append(cut)
                if cut.violation is not None:
                    break
        if received:
            self._hand_on(received)
        reasons = (self._answer(cut) for cut in controls)
        return next((reason for reason in reasons if reason is not None), None)

    def _hand_on(self, received: Sequence[Received]) -> None:
        before_ns = self._clock.monotonic_ns()
        self._put(received)
        after_ns = self._clock.monotonic_ns()
        self._blocked_ns += after_ns - before_ns
        self._continuity.waited(after_ns - before_ns, after_ns)

    def _answer(self, cut: Cut) -> str | None:
        """Answer control frames and violations; return the reason if the connection ends with one."""
        for opcode, payload in cut.controls:
            if opcode == PING:
                self._connection.pong(payload)
            elif opcode == PONG:
                self._pong = payload
            elif opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big") if payload else None
                self.was_crowded = code == _POLICY_VIOLATION
                if not self._is_leaving:  # Otherwise this one answers ours.
                    self._say_goodbye(code)
                return f"the feed closed the connection with code {code or 1005}"
        if cut.violation is not None:
            self._say_goodbye(cut.violation.code)
            return f"the feed broke the protocol: {cut.violation.reason}"
        return None

    def _say_goodbye(self, code: int | None) -> None:
        """Send a close frame. If that fails, it is not why the connection ended."""
        with contextlib.suppress(TransientError):
            self._connection.say_goodbye(code)
