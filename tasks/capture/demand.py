"""Demand: which symbols the runs that share a session want, and until when.

The recorder's main thread looks twice a second; a look costs one system call if no request has changed.
"""

from tasks.capture.clock import Clock
from tasks.capture.request import CaptureRequest, own_request
from tasks.records.ledger import Request
from tasks.records.requests import close, join, reopen, requests_of, stamp_of, symbols_of
from tasks.records.trade import NS_PER_S


class Demand:
    """The requests of one session, as its recorder sees them.

    Once a request has been seen, its end is measured as a duration: a stepped wall clock neither ends nor prolongs it.
    `symbols` is the union over the active requests.
    """

    def __init__(self, session: CaptureRequest, clock: Clock) -> None:
        self._folder = session.folder
        self._clock = clock
        self._stamp = -1
        self._ends_mono_ns: dict[str, int] = {}
        self._requests: tuple[Request, ...] = ()
        if not requests_of(self._folder):
            join(self._folder, own_request(session), clock.wall_ns())
        reopen(self._folder)
        self.look()

    def look(self) -> None:
        """Read the requests again if one has changed. Raises OSError."""
        stamp = stamp_of(self._folder)
        if stamp != self._stamp:
            self._note(requests_of(self._folder))
            self._stamp = stamp

    def _note(self, requests: tuple[Request, ...]) -> None:
        mono_ns, wall_ns = self._clock.monotonic_ns(), self._clock.wall_ns()
        for request in requests:
            self._ends_mono_ns.setdefault(request.id, mono_ns + request.until_ns - wall_ns)
        self._requests = requests

    @property
    def all(self) -> tuple[Request, ...]:
        """All requests so far, including ended ones."""
        return self._requests

    @property
    def active(self) -> tuple[Request, ...]:
        """The requests that have not ended."""
        return self._active(self._requests)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols to record now."""
        return symbols_of(self.active)

    @property
    def until_ns(self) -> int:
        """The latest end (UTC ns) of any request; a withdrawn request ends with its withdrawal."""
        return max(request.end_ns for request in self._requests)

    @property
    def left_s(self) -> float:
        """How long until the last request ends."""
        mono_ns = self._clock.monotonic_ns()
        return max((self._ends_mono_ns[each.id] - mono_ns for each in self.active), default=0) / NS_PER_S

    @property
    def was_withdrawn(self) -> bool:
        """Whether the request with the latest end was withdrawn before it."""
        last = max(self._requests, key=lambda request: request.end_ns)
        return last.withdrawn_ns is not None and last.withdrawn_ns < last.until_ns

    def end(self, *, now: bool) -> bool:
        """Accept no more requests; return False if one has not ended, unless `now` ends them all."""
        if not close(self._folder, lambda requests: not now and self._is_wanted(requests)):
            self.look()
            return False
        return True

    def _is_wanted(self, requests: tuple[Request, ...]) -> bool:
        self._note(requests)
        return bool(self.active)

    def _active(self, requests: tuple[Request, ...]) -> tuple[Request, ...]:
        mono_ns = self._clock.monotonic_ns()
        return tuple(each for each in requests if each.withdrawn_ns is None and mono_ns < self._ends_mono_ns[each.id])
