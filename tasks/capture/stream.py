"""How is a stream of bytes to the feed opened: directly or by a proxy, with TLS or without?

websocket-client could do this too, but it takes the host's first address alone, and asks some of the proxy variables
whether the host is this machine or not. It is handed the open stream instead.
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


class ProxyError(OSError):
    """The proxy cannot be used; the text says why, and names no address."""


def open_stream(target: Address, dialer: Dialer, attempt: "Attempt[Any]") -> socket.socket:
    """A stream to that host, its certificate checked where it is a secure one.

    Raises OSError (ProxyError, TimeoutError and ssl.SSLError among it), UnicodeError where there is no such name, and
    SettingsError where a variable names a proxy that cannot be used.
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
            _ask(stream, proxy, target)
        if not target.is_secure:
            return stream
        stream.settimeout(left_s(attempt.end_s))
        return _trusting().wrap_socket(stream, server_hostname=target.host)
    except BaseException:
        stream.close()
        raise


def _trusting() -> ssl.SSLContext:
    """TLS that checks certificate and name, by the system's authorities or those of SSL_CERT_FILE and SSL_CERT_DIR."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    return context


def left_s(end_s: float) -> float:
    """How long until that time of the monotonic clock. Raises TimeoutError where it has passed."""
    left = end_s - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _ask(stream: socket.socket, proxy: Proxy, target: Address) -> None:
    """Have the proxy connect to the host (RFC 9110, CONNECT); what is sent and received then is the host's."""
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.credentials is not None:
        lines.append(f"Proxy-Authorization: Basic {b64encode(proxy.credentials.encode()).decode()}")
    stream.sendall("\r\n".join([*lines, "", ""]).encode())
    head = b""
    # The host says nothing before it is asked: what comes is the proxy's answer, and no more.
    while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES:
        received = stream.recv(_HEAD_BYTES)
        if not received:
            raise ProxyError(f"the proxy of {proxy.variable} ended the connection")
        head += received
    status = head.split(b" ", 2)[1:2]
    if not (head.startswith(b"HTTP/1.") and status and status[0].startswith(b"2")):
        code = f" (HTTP {status[0].decode()})" if status and status[0].isdigit() else ""
        raise ProxyError(f"the proxy of {proxy.variable} refused it{code}")
