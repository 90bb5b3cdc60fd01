"""How is a stream of bytes to the feed opened: directly or by a proxy, with TLS or without?

websocket-client could do this too, but it takes the host's first address alone, and asks some of the proxy variables
whether the host is this machine or not. It is handed the open stream instead.
"""

import socket
import ssl
import time
from base64 import b64encode
from typing import Any

from tasks.address import Address
from tasks.capture.attempt import Attempt
from tasks.capture.dial import Dialer
from tasks.proxies import Proxy, proxy_for

_HEAD_BYTES = 16 << 10


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
