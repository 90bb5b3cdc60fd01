"""What do the runs that share a session want of it by now: which symbols, and until when?

Looked at twice a second from the recorder's main thread; a look at requests that have not changed costs one
system call.
"""

from tasks.capture.clock import Clock
from tasks.capture.request import CaptureRequest, own_request
from tasks.records.ledger import Request
from tasks.records.requests import close, join, reopen, requests_of, stamp_of, symbols_of
from tasks.records.trade import NS_PER_S


class Demand:
    """The requests of one session, as its recorder sees them.

    From the moment at which a request is first seen its end is a duration: a stepped wall clock must neither end nor
    prolong it. `symbols` is the union of what the active ones ask for.
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
        """Read the requests anew where one has changed. Raises OSError."""
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
        """Every request so far, those that have ended included."""
        return self._requests

    @property
    def active(self) -> tuple[Request, ...]:
        """Those that last."""
        return self._active(self._requests)

    @property
    def symbols(self) -> tuple[str, ...]:
        """What is to be recorded now."""
        return symbols_of(self.active)

    @property
    def until_ns(self) -> int:
        """The latest time (UTC ns) that any request asks for; of withdrawn ones the time of their withdrawal."""
        return max(request.end_ns for request in self._requests)

    @property
    def left_s(self) -> float:
        """How long until the last of them ends."""
        mono_ns = self._clock.monotonic_ns()
        return max((self._ends_mono_ns[each.id] - mono_ns for each in self.active), default=0) / NS_PER_S

    @property
    def was_withdrawn(self) -> bool:
        """Whether the request that would have lasted longest of all was withdrawn before its time."""
        last = max(self._requests, key=lambda request: request.end_ns)
        return last.withdrawn_ns is not None and last.withdrawn_ns < last.until_ns

    def end(self, *, now: bool) -> bool:
        """Take no more requests; `now` also where some last. False where one was filed that has not ended."""
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
