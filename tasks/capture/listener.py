"""Listener: the thread that connects to the feed, subscribes, receives, and reconnects until the session ends.

Every interval in which a symbol cannot be received goes into the session's gaps.
"""

import logging
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from tasks.address import address_of
from tasks.capture.clock import Clock
from tasks.capture.continuity import Continuity
from tasks.capture.dial import Dialer
from tasks.capture.feed import Connection, TooManyConnections, connect
from tasks.capture.gaps import GapBook
from tasks.capture.lanes import LaneClosed
from tasks.capture.receiver import Receiver
from tasks.capture.request import CaptureRequest, WatchList
from tasks.capture.routes import Received
from tasks.capture.subscriptions import Subscriptions
from tasks.errors import TransientError
from tasks.feeds.base import VendorError
from tasks.feeds.registry import feed_named
from tasks.records.coverage import NOT_ACKNOWLEDGED
from tasks.records.sessions import WATCHLIST_FILE
from tasks.records.status import State
from tasks.records.trade import NS_PER_S

log = logging.getLogger(__name__)

# A connection that lasted this long was healthy: its loss does not count as another failure in a row.
_HEALTHY_NS = 60 * NS_PER_S
# How long to stay away when the feed counts another connection on the key: to return at once would drop both again.
_CROWDED_S = 60.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Full-jitter exponential backoff (AWS Architecture Blog, 2015): a random part of a doubling, capped time."""

    first_s: float = 0.5
    most_s: float = 30.0
    uniform: Callable[[float, float], float] = random.uniform

    def wait_s(self, failures: int) -> float:
        """Return how long to wait after that many failures in a row."""
        return self.uniform(0, min(self.most_s, self.first_s * 2.0 ** min(failures, 30)))


class Listener(threading.Thread):
    """Receives the feed for one session. `put` takes what arrived; `on_failure` gets what ends the session early.

    `connection` counts connections from the session's first. `checked_ns` is the last receive time at which the
    socket was empty and everything from it handed on; `latest_ns` the latest receive time of ended connections.
    `acknowledge` and `obey_errors` are called from within `put`, on this thread; the other methods from any thread.
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
        self._continuity = Continuity(request.started_ns)
        # What other threads want done with the open connection, on this thread.
        self._orders: SimpleQueue[Callable[[Connection], object]] = SimpleQueue()
        self._open: Connection | None = None
        # A symbol that is added gets its gap either from `change` or with the others when the connection is lost.
        self._changing = threading.Lock()
        self._is_subscribed = False
        self._is_crowded = False
        self._failures = 0
        self._stopping = threading.Event()

    @property
    def refused(self) -> tuple[str, ...]:
        """The symbols that the vendor refused on this connection."""
        return tuple(self._subscriptions.refused)

    def stop(self) -> None:
        """End in order: unsubscribe, receive what is in flight, close. `join` waits for it."""
        self._stopping.set()
        self._wake()

    def change(self, wanted: Sequence[str]) -> None:
        """Receive these symbols from now on, without a new connection if one is open."""
        now_ns = self._clock.wall_ns()
        with self._changing:
            added, removed = self._watch.change(wanted, now_ns)
            self._gaps.close(removed, now_ns)
            if not self._is_subscribed:
                self._gaps.open(added, now_ns, "added while there was no connection")
        if added or removed:
            log.info("watch-list: added %s, removed %s", ", ".join(added) or "-", ", ".join(removed) or "-")
            self._order(self._follow)

    def resubscribe(self, symbols: Sequence[str]) -> None:
        """Unsubscribe and subscribe symbols that have fallen silent while others have not."""
        self._order(lambda connection: self._renew(connection, symbols))

    def renew(self, reason: str, silent_from_ns: int) -> None:
        """Replace the connection: it is open, but nothing has been received since then (UTC ns)."""
        self._continuity.silent(silent_from_ns, reason)
        self._wake()

    def acknowledge(self, symbols: Sequence[str], at_ns: int) -> None:
        """The vendor has acknowledged these subscriptions, in a message received at `at_ns`."""
        self._gaps.close(self._subscriptions.acknowledge(symbols), at_ns)

    def obey_errors(self, errors: Sequence[VendorError]) -> None:
        """Act on these errors from the vendor."""
        self._is_crowded = self._is_crowded or any(each.kind == "second connection" for each in errors)
        refusals = [each for each in errors if each.kind in ("too many symbols", "unknown symbol")]
        if refusals:
            # Later: to send now might fail, and what was received with these errors is not handed on yet.
            self._order(lambda connection: self._note_refusals(connection, refusals))

    def _order(self, order: Callable[[Connection], object]) -> None:
        self._orders.put(order)
        self._wake()

    def _wake(self) -> None:
        connection = self._open
        if connection is not None:
            connection.wake()

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                reason, wait_s = self._connect_once()
                if not self._stopping.is_set():
                    self.state = "reconnecting"
                    self.notice = f"{reason}; next try in {wait_s:.1f} s"
                    log.warning("%s", self.notice)
                    self._stopping.wait(wait_s)
        except LaneClosed:
            log.info("the journal accepts no more")
        except BaseException as error:
            self._on_failure(error)
        finally:
            self.state = "ended"

    def _connect_once(self) -> tuple[str, float]:
        """Make one connection and use it until it is lost; return why, and how long to wait before the next."""
        address = self._feed.address(self._request.feed_url, self._key)
        try:
            connection = connect(
                address, self._request.connect_timeout_s, self._stopping, self._dialer, self._key_setting()
            )
        except TransientError as error:
            self._open_gap(self._request.started_ns, str(error))
            self._failures += 1
            self._is_crowded = isinstance(error, TooManyConnections)
            return str(error), self._wait_s()
        self._is_crowded = False
        opened_ns = self._clock.monotonic_ns()
        self._open = connection
        try:
            reason = self._listen(connection)
        finally:
            self._open = None
            self.latest_ns = max(self.latest_ns, self._continuity.latest_ns)
            connection.close()
        healthy = self._clock.monotonic_ns() - opened_ns >= _HEALTHY_NS
        self._failures = 0 if healthy else self._failures + 1
        return reason, self._wait_s()

    def _wait_s(self) -> float:
        return (_CROWDED_S if self._is_crowded else 0.0) + self._backoff.wait_s(self._failures)

    def _key_setting(self) -> str:
        is_here = address_of(self._request.feed_url).is_loopback
        return "TAPE_REPLAY_KEY" if is_here else self._feed.key_setting or "the key"

    def _listen(self, connection: Connection) -> str:
        """Subscribe, and receive until the connection is lost or the session ends; return the reason."""
        start_ns = self._request.started_ns if self.listening_ns is None else self._continuity.received_ns
        self.connection += 1
        self._continuity = continuity = Continuity(start_ns)
        self._subscriptions = Subscriptions(self._feed)
        self._orders = SimpleQueue()  # Drops orders to an earlier connection; what they wanted is in the watch-list.
        receiver = Receiver(connection, self.connection, self._request, self._clock, continuity, self._count_and_put)
        try:
            _send(connection, self._feed.greeting(self._key))
            subscribed_ns = self._follow(connection)
            continuity.subscribed(subscribed_ns)
            self.listening_ns = self.listening_ns or subscribed_ns
            self.state, self.notice = "recording", None
            log.info("connection %d: %d symbols subscribed", self.connection, len(self._subscriptions.requested))
            reason = receiver.receive(self._stopping, lambda is_idle: self._between_reads(connection, is_idle))
            if reason is None:
                self.state, reason = "draining", "the session ended"
                receiver.leave(self._subscriptions.unsubscribe_all())
        except TransientError as error:
            reason = str(error)
            receiver.read_rest()
        self._is_crowded = self._is_crowded or receiver.was_crowded
        self._open_gap(*continuity.gap(reason, self._clock.monotonic_ns()))
        return reason

    def _count_and_put(self, received: Sequence[Received]) -> None:
        self.frames += sum(each.cut.frames for each in received)
        self._put(received)

    def _between_reads(self, connection: Connection, is_idle: bool) -> None:
        if is_idle:
            # Not the time of this look: bytes prove that a connection lives, their absence does not.
            self.checked_ns = max(self.checked_ns, self._continuity.received_ns)
        while not self._orders.empty():
            self._orders.get_nowait()(connection)
        if self._subscriptions.is_split:
            _send(connection, self._subscriptions.request_singly(self._clock.monotonic_ns()))

    def _open_gap(self, from_ns: int, reason: str) -> None:
        """Nothing is received from then on. If the session has ended, that is no gap."""
        with self._changing:
            self._is_subscribed = False
            if not self._stopping.is_set():
                self._gaps.open(self._watch.current, from_ns, reason)

    def _follow(self, connection: Connection) -> int:
        """Subscribe and unsubscribe as the watch-list says; return when (UTC ns) all requests were sent."""
        with self._changing:
            new, requests = self._subscriptions.follow(self._watch.current)
            self._is_subscribed = True
        _send(connection, requests)
        now_ns = self._continuity.stamp(self._clock.wall_ns())
        if self._feed.acknowledges:
            self._gaps.open(new, now_ns, NOT_ACKNOWLEDGED)
        else:
            self._gaps.close(new, now_ns)
        if not self.refused and self.state == "recording":
            self.notice = None
        return now_ns

    def _renew(self, connection: Connection, symbols: Sequence[str]) -> None:
        renewed, requests = self._subscriptions.renew(symbols)
        _send(connection, requests)
        if self._feed.acknowledges:
            self._gaps.open(renewed, self._continuity.stamp(self._clock.wall_ns()), NOT_ACKNOWLEDGED)

    def _note_refusals(self, connection: Connection, refusals: Sequence[VendorError]) -> None:
        """Open gaps for the refused symbols: those named, and for nameless refusals the last ones requested."""
        named = self._subscriptions.refuse(symbol for error in refusals for symbol in error.symbols)
        nameless = sum(not error.symbols for error in refusals)
        down = [*named, *(self._subscriptions.refuse_last(nameless) if nameless else [])]
        kind = refusals[0].kind
        self.notice = f"the feed refused {len(self.refused)} symbols: {kind}"
        log.warning("%s: %s", self.notice, ", ".join(self.refused))
        now_ns = self._continuity.stamp(self._clock.wall_ns())
        if self._feed.acknowledges:  # It is known now why no acknowledgment will come.
            self._gaps.close(down, now_ns)
        self._gaps.open(down, now_ns, f"refused: {kind}")
        if named and self._feed.acknowledges:  # The other symbols of that request may have been refused with them.
            _send(connection, self._subscriptions.request_singly(self._clock.monotonic_ns()))


def _send(connection: Connection, requests: Sequence[str]) -> None:
    for request in requests:
        connection.send_text(request)
