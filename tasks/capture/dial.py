"""Dialing: TCP connections to a host of which some addresses may be dead ("Happy Eyeballs", RFC 8305).

IPv6 and IPv4 addresses alternate. Each gets a head start of a quarter of a second before the next one is tried in
parallel, and the first to connect is used. An address may connect and then not answer, so the next call starts with
the address that was tried least since it last worked.
"""

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from itertools import chain, zip_longest
from typing import Any

# What the kernel buffers while we do not read: seconds of a burst.
_SO_RCVBUF_BYTES = 8 << 20
# Frames are small and must not wait for one another; keepalive lets the kernel detect a dead peer too.
_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_RCVBUF, _SO_RCVBUF_BYTES),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
_HEAD_START_S = 0.25
_LOOK_EVERY_S = 0.1

# An address family and an address in it, as in the socket module.
Place = tuple[socket.AddressFamily, Any]
Resolve = Callable[..., Iterable[tuple[Any, ...]]]


class Dialer:
    """Connects to hosts, one call at a time, and remembers which of their addresses did not work."""

    def __init__(self, resolve: Resolve | None = None) -> None:
        self._resolve = resolve or socket.getaddrinfo
        self._uses: dict[Place, int] = {}
        self._used: Place | None = None
        self._lookup: tuple[tuple[str, int], Future[list[Place]]] | None = None

    def dial(self, host: str, port: int, end_s: float, given_up: threading.Event) -> socket.socket:
        """Return a connected, blocking socket. `end_s` is a time of the monotonic clock.

        Raises TimeoutError at `end_s` or once `given_up` is set, and OSError or UnicodeError if no address is found or
        none accepts the connection.
        """
        places = interleaved(self._look_up(host, port, end_s, given_up))
        self._uses = {place: self._uses.get(place, 0) for place in places}
        places.sort(key=self._uses.__getitem__)
        connected, self._used = _Race(places, self._uses).run(end_s, given_up)
        connected.setblocking(True)
        return connected

    def worked(self) -> None:
        """Note that the last address worked: the next call starts with it."""
        if self._used is not None:
            self._uses[self._used] = 0

    def _look_up(self, host: str, port: int, end_s: float, given_up: threading.Event) -> list[Place]:
        """Return the host's addresses. A lookup that hangs cannot be canceled; the next call waits for it too."""
        lookup = self._lookup  # Read once: an abandoned call may still end in parallel.
        if lookup is None or lookup[0] != (host, port):
            self._lookup = lookup = (host, port), Future[list[Place]]()
            threading.Thread(
                target=self._resolve_into, args=(lookup[1], *lookup[0]), name="lookup", daemon=True
            ).start()
        found = lookup[1]
        while not found.done():
            _check(end_s, given_up)
            wait([found], min(_LOOK_EVERY_S, max(0.0, end_s - time.monotonic())))
        if self._lookup is lookup:
            self._lookup = None
        return found.result()

    def _resolve_into(self, found: "Future[list[Place]]", host: str, port: int) -> None:
        try:
            answers = self._resolve(host, port, type=socket.SOCK_STREAM)
            found.set_result([(answer[0], answer[4]) for answer in answers])
        except BaseException as error:
            found.set_exception(error)


def interleaved(places: Iterable[Place]) -> list[Place]:
    """Return the distinct places with alternating families, starting with the family of the first place."""
    families: dict[socket.AddressFamily, list[Place]] = {}
    for place in dict.fromkeys(places):
        families.setdefault(place[0], []).append(place)
    return [place for place in chain(*zip_longest(*families.values())) if place is not None]


class _Race:
    """Connection attempts to the places, each started a little after the previous one; the first to connect wins."""

    def __init__(self, places: list[Place], uses: dict[Place, int]) -> None:
        self._waiting = list(places)
        self._uses = uses
        self._begun: dict[int, tuple[socket.socket, Place]] = {}
        self._failures: list[OSError] = []
        self._poll = select.poll()
        self._next_s = 0.0

    def run(self, end_s: float, given_up: threading.Event) -> tuple[socket.socket, Place]:
        """Return the winner and its place; close the others. Raises TimeoutError, or an OSError with all failures."""
        try:
            while self._waiting or self._begun:
                _check(end_s, given_up)
                if self._waiting and (not self._begun or time.monotonic() >= self._next_s):
                    self._begin_next(end_s)
                elif (winner := self._look(end_s)) is not None:
                    return winner
        finally:
            for tried, _ in self._begun.values():
                tried.close()
        raise _joined(self._failures)

    def _begin_next(self, end_s: float) -> None:
        place = self._waiting.pop(0)
        self._uses[place] += 1
        now_s = time.monotonic()
        # If time is short, each still gets its share.
        self._next_s = now_s + min(_HEAD_START_S, (end_s - now_s) / (len(self._waiting) + 2))
        try:
            started = _start(place)
        except OSError as error:
            self._failures.append(error)
            return
        self._begun[started.fileno()] = started, place
        self._poll.register(started.fileno(), select.POLLOUT)

    def _look(self, end_s: float) -> tuple[socket.socket, Place] | None:
        """Wait for an answer until the next attempt is due; return the winner if there is one."""
        turn_s = self._next_s if self._waiting else end_s
        left_s = min(end_s, turn_s, time.monotonic() + _LOOK_EVERY_S) - time.monotonic()
        for descriptor, _ in self._poll.poll(max(0.0, left_s) * 1000):
            tried, place = self._begun.pop(descriptor)
            self._poll.unregister(descriptor)
            code = tried.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code == 0:
                return tried, place
            tried.close()
            self._failures.append(OSError(code, os.strerror(code)))
            self._next_s = 0.0  # After a refusal the next one need not wait.
        return None


def _start(place: Place) -> socket.socket:
    """Return a socket that is connecting or already connected. Raises OSError."""
    family, address = place
    started = socket.socket(family, socket.SOCK_STREAM)
    try:
        started.setblocking(False)
        for option in _OPTIONS:
            started.setsockopt(*option)
        code = started.connect_ex(address)
    except BaseException:
        started.close()
        raise
    if code not in (0, errno.EINPROGRESS):
        started.close()
        raise OSError(code, os.strerror(code))
    return started


def _check(end_s: float, given_up: threading.Event) -> None:
    if given_up.is_set() or time.monotonic() >= end_s:
        raise TimeoutError


def _joined(failures: list[OSError]) -> OSError:
    """Return one error for all: each reason once, in the order of the addresses."""
    reasons = dict.fromkeys(failure.strerror or type(failure).__name__ for failure in failures)
    return OSError(failures[0].errno if failures else errno.EADDRNOTAVAIL, ", ".join(reasons) or "it has no address")
