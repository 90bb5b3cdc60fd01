"""Byte streams to the feed: direct or through a proxy, with or without TLS, within a total time limit.

websocket-client could do this too, but it tries only the host's first address and reads some proxy variables even for
loopback hosts. It gets the open stream instead.

Every step has its own timeout, but a peer that sends a byte now and then can stretch their sum without end. So a
connection attempt runs in a thread of its own. Whoever waits for it leaves at the time limit and shuts down the
attempt's socket, which ends the thread.
"""

import contextlib
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

from tasks.address import Address
from tasks.capture.dial import Dialer
from tasks.errors import TransientError
from tasks.proxies import Proxy, proxy_for

_HEAD_BYTES = 16 << 10
_LOOK_EVERY_S = 0.1

Result = TypeVar("Result")


class Attempt(threading.Thread, Generic[Result]):
    """Runs `work`, which passes each connection it makes to `hold` and checks `given_up` while it waits."""

    def __init__(self, work: "Callable[[Attempt[Result]], Result]", end_s: float) -> None:
        super().__init__(name="connect", daemon=True)
        self.end_s = end_s
        self.given_up = threading.Event()
        self.outcome: Future[Result] = Future()
        self._work = work
        self._lock = threading.Lock()
        self._held: socket.socket | None = None

    def hold(self, connected: socket.socket) -> None:
        """Shut down this connection when the attempt is abandoned. Raises TimeoutError if it already is."""
        with self._lock:
            if self.given_up.is_set():
                raise TimeoutError
            # Our own descriptor: TLS detaches the socket, and its number may be reused by then.
            self._held = connected.dup()

    def abandon(self) -> None:
        """End the attempt: its thread ends soon, whatever the peer does."""
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
    """Return the result of `work` if it comes within that time; a later result goes to `discard`.

    Raises TransientError when the time is over or `given_up` is set, otherwise what `work` raises.
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


class ProxyError(OSError):
    """The proxy cannot be used; the text says why without naming an address."""


def open_stream(target: Address, dialer: Dialer, attempt: "Attempt[Any]") -> socket.socket:
    """Return a stream to that host; if it is secure, its certificate has been checked.

    Raises OSError (including ProxyError, TimeoutError, and ssl.SSLError), UnicodeError if the name is invalid, and
    SettingsError if a variable names an unusable proxy.
    """
    proxy = proxy_for(target)
    way = target if proxy is None else proxy.address
    try:
        stream = dialer.dial(way.host, way.port, attempt.end_s, attempt.given_up)
    except (OSError, UnicodeError) as error:
        if proxy is None or isinstance(error, TimeoutError):
            raise
        raise ProxyError(f"the proxy of {proxy.variable} cannot be reached") from error
    try:
        attempt.hold(stream)
        stream.settimeout(left_s(attempt.end_s))
        if proxy is not None:
            _connect_through(stream, proxy, target)
        if not target.is_secure:
            return stream
        stream.settimeout(left_s(attempt.end_s))
        return _trusting().wrap_socket(stream, server_hostname=target.host)
    except BaseException:
        stream.close()
        raise


def _trusting() -> ssl.SSLContext:
    """Return a context that checks certificate and name, with the system's CAs or SSL_CERT_FILE and SSL_CERT_DIR."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    return context


def left_s(end_s: float) -> float:
    """Return the time left until that time of the monotonic clock. Raises TimeoutError if it has passed."""
    left = end_s - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _connect_through(stream: socket.socket, proxy: Proxy, target: Address) -> None:
    """Make the proxy connect to the host (RFC 9110, CONNECT); from then on the stream is the host's."""
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.credentials is not None:
        lines.append(f"Proxy-Authorization: Basic {b64encode(proxy.credentials.encode()).decode()}")
    stream.sendall("\r\n".join([*lines, "", ""]).encode())
    head = b""
    # The host speaks only when spoken to, so whatever arrives is the proxy's answer.
    while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES:
        received = stream.recv(_HEAD_BYTES)
        if not received:
            raise ProxyError(f"the proxy of {proxy.variable} ended the connection")
        head += received
    status = head.split(b" ", 2)[1:2]
    if not (head.startswith(b"HTTP/1.") and status and status[0].startswith(b"2")):
        code = f" (HTTP {status[0].decode()})" if status and status[0].isdigit() else ""
        raise ProxyError(f"the proxy of {proxy.variable} refused it{code}")
