"""Who listens to the feed until the session ends? One thread: connect, subscribe, read, and again when it breaks.

It stamps what arrives and hands it on. Every stretch in which it cannot hear goes into the gap book.
"""

import contextlib
import logging
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from tasks.address import address_of
from tasks.capture.clock import Clock
from tasks.capture.dial import Dialer
from tasks.capture.feed import Chunk, Connection, TooManyConnections, connect
from tasks.capture.frames import CLOSE, PING, PONG, Cut, FrameCutter
from tasks.capture.gaps import GapBook
from tasks.capture.lanes import LaneClosed, Received
from tasks.capture.request import CaptureRequest
from tasks.capture.subscriptions import Subscriptions
from tasks.capture.watchlist import WatchList
from tasks.errors import TransientError
from tasks.feeds.base import VendorError
from tasks.feeds.registry import feed_named
from tasks.records.coverage import NOT_ACKNOWLEDGED
from tasks.records.sessions import WATCHLIST_FILE
from tasks.records.status import State
from tasks.records.trade import NS_PER_S

log = logging.getLogger(__name__)

# How long the peer may be silent while we leave, and how long in all it may go on sending.
_GOODBYE_S = 3.0
_LEAVE_S = 5.0
_HEALTHY_NS = 60 * NS_PER_S
_CROWDED_S = 60.0
# The close code for "another connection on this key", among others: to come back at once would drop both again.
_POLICY_VIOLATION = 1008
# A vendor that drops us for slowness does so within this time of it.
_HELD_NS = 30 * NS_PER_S
# What had waited in the socket for so long, or longer, was sent before it was read.
_BEHIND_NS = NS_PER_S // 4
_LAST_PING = b"last"


@dataclass(frozen=True, slots=True)
class Backoff:
    """Full-jitter exponential backoff (AWS Architecture Blog, 2015): anything up to a doubling, capped time."""

    first_s: float = 0.5
    most_s: float = 30.0
    uniform: Callable[[float, float], float] = random.uniform

    def wait_s(self, failures: int) -> float:
        """How long to wait after that many failures in a row."""
        return self.uniform(0, min(self.most_s, self.first_s * 2.0 ** min(failures, 30)))


class Listener(threading.Thread):
    """Hears the feed for one session. `put` takes what arrived; `on_failure` is told what ends the session early.

    `connection` counts connections from the session's first; `heard_ns` is the receive time of the last bytes;
    `latest_ns` the latest receive time of all connections that have ended;
    `checked_ns` the last time at which everything that the socket had was handed on.
    """

    def __init__(
        self,
        request: CaptureRequest,
        key: str,
        put: Callable[[Sequence[Received]], None],
        gaps: GapBook,
        clock: Clock,
        on_failure: Callable[[BaseException], None],
        first_connection: int = 0,
        backoff: Backoff | None = None,
        watch: WatchList | None = None,
    ) -> None:
        super().__init__(name="listener", daemon=True)
        self.connection = first_connection
        self.frames = 0
        self.heard_ns = 0
        self.latest_ns = 0
        self.checked_ns = 0
        self.listening_ns: int | None = None
        self.state: State = "connecting"
        self.notice: str | None = None
        self._request = request
        self._key = key
        self._put = put
        self._gaps = gaps
        self._clock = clock
        self._on_failure = on_failure
        self._backoff = backoff or Backoff(most_s=request.reconnect_within_s)
        self._watch = watch or WatchList(request.folder / WATCHLIST_FILE, request.symbols)
        self._dialer = Dialer()
        self._feed = feed_named(request.feed)
        self._subscriptions = Subscriptions(self._feed)
        self._orders: SimpleQueue[Callable[[Connection], object]] = SimpleQueue()
        # What an acknowledgement, which may be read late, is judged by: when (UTC ns) each symbol was asked for on
        # this connection, and from when and why this connection, or the one before, can no longer be heard.
        self._judging = threading.Lock()
        self._asked_ns: dict[str, int] = {}
        self._lost: tuple[int, str] | None = None
        self._silent: tuple[str, int] | None = None
        self._crowded = False
        self._held_ns = self._held_until_ns = 0
        self._stopping = threading.Event()
        self._open: Connection | None = None
        self._failures = 0
        self._cutter = FrameCutter(request.max_message_bytes)
        self._stamped_ns = 0
        self._begun_ns = 0
        self._fresh_ns = 0
        self._ended_in_order = False
        self._blocked_ns = 0
        self._pong: bytes | None = None

    @property
    def refused(self) -> tuple[str, ...]:
        """The symbols for which the vendor has no slot on this connection."""
        return tuple(self._subscriptions.refused)

    def stop(self) -> None:
        """End in order: unsubscribe, take what is in flight, close. `join` waits for it."""
        self._stopping.set()
        self._wake()

    def _wake(self) -> None:
        connection = self._open
        if connection is not None:
            connection.wake()

    def change(self, wanted: Sequence[str]) -> None:
        """Hear these symbols from now on, without a new connection where one is open."""
        now_ns = self._clock.wall_ns()
        added, removed = self._watch.change(wanted, now_ns)
        if added or removed:
            log.info("watch-list: added %s, removed %s", ", ".join(added) or "-", ", ".join(removed) or "-")
            self._gaps.close(removed, now_ns)
            if self.state != "recording":
                self._gaps.open(added, now_ns, "added while there was no connection")
            self._orders.put(self._follow)
            self._wake()

    def resubscribe(self, symbols: Sequence[str]) -> None:
        """Ask again for symbols that have fallen silent alone."""
        self._orders.put(lambda connection: self._renew(connection, symbols))
        self._wake()

    def renew(self, reason: str, silent_from_ns: int) -> None:
        """Give the connection up for a new one: it is open, but nothing could be heard since then (UTC ns)."""
        self._silent = (reason, silent_from_ns)
        self._wake()

    def acknowledge(self, connection: int, symbols: Sequence[str], at_ns: int) -> None:
        """The vendor has acknowledged these subscriptions on that connection, by a message received at `at_ns`."""
        with self._judging:
            if connection != self.connection:
                return
            served = [symbol for symbol in symbols if at_ns >= self._asked_ns.get(symbol, at_ns + 1)]
            self._gaps.close(served, at_ns)
            if self._lost is None:
                self._order(connection, lambda _connection: self._subscriptions.acknowledge(served))
            else:
                listed = {*self._watch.current}
                self._gaps.open([symbol for symbol in served if symbol in listed], *self._lost)

    def obey_errors(self, connection: int, errors: Sequence[VendorError]) -> None:
        """Do what follows from these errors of the vendor on that connection."""
        self._crowded = self._crowded or any(each.kind == "second connection" for each in errors)
        refusals = [each for each in errors if each.kind in ("too many symbols", "unknown symbol")]
        if refusals:
            self._order(connection, lambda opened: self._note_refusals(opened, refusals))

    def _order(self, connection: int, order: Callable[[Connection], object]) -> None:
        if connection == self.connection:
            self._orders.put(order)
            self._wake()

    def _note_refusals(self, connection: Connection, refusals: Sequence[VendorError]) -> None:
        """Note which symbols these refusals mean: those that they name, or else the last that were asked for."""
        named = self._subscriptions.refuse(symbol for error in refusals for symbol in error.symbols)
        nameless = sum(not error.symbols for error in refusals)
        down = [*named, *(self._subscriptions.turn_down(nameless) if nameless else [])]
        why = refusals[0].kind
        self.notice = f"the feed refused {len(self.refused)} symbols: {why}"
        log.warning("%s: %s", self.notice, ", ".join(self.refused))
        now_ns = self._now_ns()
        if self._feed.acknowledges:  # Why it will not be acknowledged is known now.
            self._gaps.close(down, now_ns)
        self._gaps.open(down, now_ns, f"refused: {why}")
        if named and self._feed.acknowledges:  # The others of that request may have been refused with them.
            _send(connection, self._subscriptions.ask_singly())

    def _follow(self, connection: Connection) -> int:
        """Ask for what the watch-list says; gives when (UTC ns) all of it was asked for."""
        new, requests = self._subscriptions.follow(self._watch.current)
        _send(connection, requests)
        now_ns = self._now_ns()
        if self._feed.acknowledges:
            self._await_acknowledgement(new, now_ns)
        else:
            self._gaps.close(new, now_ns)
        if not self.refused and self.state == "recording":
            self.notice = None
        return now_ns

    def _renew(self, connection: Connection, symbols: Sequence[str]) -> None:
        """End and renew the subscriptions of these symbols."""
        asked = [symbol for symbol in symbols if symbol in self._subscriptions.asked]
        _send(connection, self._subscriptions.ask_again(asked))
        if self._feed.acknowledges:
            self._await_acknowledgement(asked, self._now_ns())

    def _await_acknowledgement(self, symbols: Sequence[str], now_ns: int) -> None:
        with self._judging:
            self._asked_ns.update(dict.fromkeys(symbols, now_ns))
        self._gaps.open(symbols, now_ns, NOT_ACKNOWLEDGED)

    def _now_ns(self) -> int:
        """The time (UTC ns), never after the receipt of what comes later, whatever becomes of the wall clock."""
        self._stamped_ns = max(self._stamped_ns, self._clock.wall_ns())
        return self._stamped_ns

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                reason, wait_s = self._listen_once()
                if not self._stopping.is_set():
                    self.state = "reconnecting"
                    self.notice = f"{reason}; next try in {wait_s:.1f} s"
                    log.warning("%s", self.notice)
                    self._stopping.wait(wait_s)
        except LaneClosed:
            log.info("the journal takes no more")
        except BaseException as error:
            self._on_failure(error)
        finally:
            self.state = "ended"

    def _listen_once(self) -> tuple[str, float]:
        """One connection, from handshake to loss: why it ended, and how long to wait before the next."""
        address = self._feed.address(self._request.feed_url, self._key)
        try:
            connection = connect(
                address, self._request.connect_timeout_s, self._stopping, self._dialer, self._key_setting()
            )
        except TransientError as error:
            self._unheard(self._request.started_ns, str(error))
            self._failures += 1
            crowded_s = _CROWDED_S if isinstance(error, TooManyConnections) else 0.0
            return str(error), crowded_s + self._backoff.wait_s(self._failures)
        self._crowded = False
        opened_ns = self._clock.monotonic_ns()
        self._open = connection
        try:
            reason = self._hear(connection)
        finally:
            self._open = None
            self.latest_ns = max(self.latest_ns, self._stamped_ns)
            connection.close()
        healthy = self._clock.monotonic_ns() - opened_ns >= _HEALTHY_NS
        self._failures = 0 if healthy else self._failures + 1
        return reason, (_CROWDED_S if self._crowded else 0.0) + self._backoff.wait_s(self._failures)

    def _key_setting(self) -> str:
        is_here = address_of(self._request.feed_url).is_loopback
        return "TAPE_REPLAY_KEY" if is_here else self._feed.key_setting or "the key"

    def _hear(self, connection: Connection) -> str:
        """Subscribe, and read until the connection is lost or the session ends; gives the reason."""
        with self._judging:
            self.connection += 1
            self._asked_ns, self._lost = {}, None
        self._subscriptions, self._silent = Subscriptions(self._feed), None
        self._orders = SimpleQueue()  # Orders to an earlier connection; what they wanted is in the watch-list.
        self._cutter = FrameCutter(self._request.max_message_bytes)
        self._stamped_ns, self._ended_in_order = 0, False
        unheard_from_ns = self._request.started_ns if self.listening_ns is None else self.heard_ns
        try:
            _send(connection, self._feed.greeting(self._key))
            self.heard_ns = unheard_from_ns = self._fresh_ns = self._follow(connection)
            self.listening_ns = self.listening_ns or self.heard_ns
            self.state, self.notice = "recording", None
            log.info("connection %d: %d symbols subscribed", self.connection, len(self._subscriptions.asked))
            reason = self._read(connection)
        except TransientError as error:
            reason = str(error)
            self._take_rest(connection)
        if self._silent is not None:
            self._unheard(self._silent[1], reason)
        elif self._held_ns and self._clock.monotonic_ns() - self._held_until_ns < _HELD_NS:
            reason += f"; for {self._held_ns / NS_PER_S:.1f} s before, the journal had held up the reading"
        self._unheard(max(unheard_from_ns, min(self.heard_ns, self._whole_until_ns())), reason)
        return reason

    def _whole_until_ns(self) -> int:
        """Up to when all that was sent on this connection is recorded, now that it is lost."""
        whole_ns = self.heard_ns if self._ended_in_order else self._through_ns()
        # Of a message that has not ended, no part is recorded.
        return min(whole_ns, self._begun_ns) if self._cutter.is_within_message else whole_ns

    def _through_ns(self) -> int:
        """Up to when all that was sent is read. Where we are behind, older messages still wait on the way to us."""
        return self._stamped_ns if self._stamped_ns - self._fresh_ns < _BEHIND_NS else self._fresh_ns

    def _unheard(self, from_ns: int, reason: str) -> None:
        """Nothing can be heard from then on. What ends because the session ends is no gap."""
        if not self._stopping.is_set():
            with self._judging:
                self._lost = self._lost or (from_ns, reason)
                self._gaps.open(self._watch.current, from_ns, reason)

    def _read(self, connection: Connection) -> str:
        """Hand on what arrives until there is no more; gives the reason. Raises TransientError where it broke."""
        every_ns = int(self._request.ping_every_s * NS_PER_S)
        last_ns = self._clock.monotonic_ns()
        asked = False
        while not self._stopping.is_set():
            quiet_ns = self._clock.monotonic_ns() - last_ns
            if quiet_ns >= (2 if asked else 1) * every_ns:
                if asked:
                    return f"no answer to a ping within {self._request.ping_every_s:g} s"
                connection.ping(b"")
                asked = True
            chunk = connection.read(((2 if asked else 1) * every_ns - quiet_ns) / NS_PER_S)
            if chunk is None:
                # Not the time of this look: that a connection lives is proven by bytes, not by their absence.
                self.checked_ns = max(self.checked_ns, self.heard_ns)
                if self._silent is not None:
                    return self._silent[0]
                self._obey(connection)
                continue
            reason = self._take(connection, connection.gather(chunk, self._clock.wall_ns))
            if reason is not None:
                self._ended_in_order = True
                return reason
            if self._silent is not None:
                return self._silent[0]
            last_ns, asked = self._clock.monotonic_ns(), False
            self._obey(connection)
        self._leave(connection)
        return "the session ended"

    def _obey(self, connection: Connection) -> None:
        while not self._orders.empty():
            self._orders.get_nowait()(connection)

    def _take(self, connection: Connection, chunks: Sequence[Chunk]) -> str | None:
        """Hand on what these chunks complete, answer pings; gives the reason where the peer ends."""
        cuts: list[Cut] = []
        waiting: list[Received] = []
        for read_ns, chunk, was_empty in chunks:
            # The wall clock may be stepped back; receipt within a connection has one order.
            self._stamped_ns = self.heard_ns = max(self._stamped_ns, read_ns)
            if was_empty:
                self._fresh_ns = self._stamped_ns
            if not chunk:
                return "the feed ended the connection without a close frame"
            was_within = self._cutter.is_within_message
            cut = self._cutter.cut(chunk)
            if cut.texts or cut.binaries or not was_within:
                self._begun_ns = self._stamped_ns
            if frames := cut.frames:
                self.frames += frames
                waiting.append(Received(self.connection, self._stamped_ns, cut, len(chunk), self._through_ns()))
                if cut.controls or cut.violation is not None:
                    cuts.append(cut)
                if cut.violation is not None:
                    break
        if waiting:
            self._hand_on(waiting)
        reasons = (self._answer(connection, cut) for cut in cuts)
        return next((reason for reason in reasons if reason is not None), None)

    def _hand_on(self, waiting: Sequence[Received]) -> None:
        before_ns = self._clock.monotonic_ns()
        self._put(waiting)
        after_ns = self._clock.monotonic_ns()
        self._blocked_ns += after_ns - before_ns
        if after_ns - before_ns > NS_PER_S:  # The queues were full: back-pressure, felt by the vendor too.
            self._held_ns, self._held_until_ns = after_ns - before_ns, after_ns

    def _answer(self, connection: Connection, cut: Cut) -> str | None:
        """Answer what is not a message; gives the reason where the connection ends with it."""
        for opcode, payload in cut.controls:
            if opcode == PING:
                connection.pong(payload)
            elif opcode == PONG:
                self._pong = payload
            elif opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big") if payload else None
                self._crowded = code == _POLICY_VIOLATION
                if self.state != "draining":  # Else this answers ours.
                    _part(connection, code)
                return f"the feed closed the connection with code {code or 1005}"
        if cut.violation is not None:
            _part(connection, cut.violation.code)
            return f"the feed broke the protocol: {cut.violation.reason}"
        return None

    def _leave(self, connection: Connection) -> None:
        """Unsubscribe, take what is in flight, close, and take what still comes until the peer has closed too.

        TCP keeps order: when the answer to a ping sent after the last request is here, so is all that was sent
        before it. A connection lost on the way gives what it had sent before.
        """
        self.state = "draining"
        ends_ns = self._clock.monotonic_ns() - self._blocked_ns + int(_LEAVE_S * NS_PER_S)
        try:
            _send(connection, self._subscriptions.end())
            connection.ping(_LAST_PING)
            if self._drain(connection, ends_ns, until_pong=_LAST_PING):
                connection.say_goodbye(1000)
                self._drain(connection, ends_ns, until_pong=None)
        except TransientError as error:
            log.warning("while leaving: %s", error)
            self._take_rest(connection)

    def _take_rest(self, connection: Connection) -> None:
        """Nothing can be sent any more; what had come before can still be read, but no more than a while of it."""
        ends_ns = self._clock.monotonic_ns() - self._blocked_ns + int(_LEAVE_S * NS_PER_S)
        with contextlib.suppress(TransientError):
            while (chunk := connection.read(0.0)) and self._clock.monotonic_ns() - self._blocked_ns < ends_ns:
                if self._take(connection, [(self._clock.wall_ns(), chunk, connection.was_empty)]) is not None:
                    return

    def _drain(self, connection: Connection, ends_ns: int, until_pong: bytes | None) -> bool:
        """Read until that pong is here (True) or the peer has ended, been silent, or sent on for too long (False)."""
        self._pong = None
        while until_pong is None or self._pong != until_pong:
            last_ns = self._clock.monotonic_ns()
            # What the journal held up is not the peer's time.
            if last_ns - self._blocked_ns > ends_ns:
                log.warning("the feed still sends %g s after it was asked to end", _LEAVE_S)
                return False
            chunk = connection.read(_GOODBYE_S)
            while chunk is None and self._clock.monotonic_ns() - last_ns < _GOODBYE_S * NS_PER_S:
                chunk = connection.read(_GOODBYE_S)
            if chunk is None:
                log.warning("the feed did not answer the goodbye within %g s", _GOODBYE_S)
                return until_pong is not None
            if self._take(connection, [(self._clock.wall_ns(), chunk, connection.was_empty)]) is not None:
                return False
        return True


def _part(connection: Connection, code: int | None) -> None:
    """Tell the peer that it is over. Where it no longer listens, that is not why."""
    with contextlib.suppress(TransientError):
        connection.say_goodbye(code)


def _send(connection: Connection, requests: Sequence[str]) -> None:
    for request in requests:
        connection.send_text(request)
