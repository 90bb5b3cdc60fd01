"""Websocket connections to the vendor. The only module that uses websocket-client.

The library makes the handshake, on a stream that `stream.py` has opened, and frames what is sent. What arrives is read
from the socket directly, as much as there is, and cut by `frames.py`. One thread owns a connection and both reads and
writes: Python's TLS sockets must not be used by two threads at a time. `wake` may be called from any thread.

The texts of the library's exceptions are never passed on: they may quote the URL, which contains the key.
"""

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import websocket

from tasks.address import address_of
from tasks.capture.dial import Dialer
from tasks.capture.frames import CLOSE, PING, PONG
from tasks.capture.stream import Attempt, ProxyError, left_s, open_stream, within
from tasks.errors import RecorderError, TerminalError, TransientError
from tasks.proxies import proxy_for

# The most that one recv reads: some hundred trades per system call, whose messages, objects, and lines still fit into
# the processor's cache. 256 KiB cost a tenth more, 1 MiB a third (`make bench`).
_RECV_BYTES = 32 << 10
# Handing on what was read costs a wake-up and a write, however much it is, so reads are gathered for this long or up to
# this size; nobody waits for a line in a journal that is synced once a second. A read near the end of the time ends the
# gathering: another wake-up, only to find the time over, would cost more than the shorter wait saves.
_GATHER_NS, _GATHER_END_NS, _GATHER_BYTES = 30_000_000, 5_000_000, 256 << 10
_SEND_TIMEOUT_S = 10.0


# One read: its time (UTC ns), the bytes, and whether the socket was empty before they arrived.
Chunk = tuple[int, bytes, bool]


class TooManyConnections(TransientError):
    """The vendor still counts another connection on this key; it can take more than a minute to drop one."""


class Connection:
    """One open websocket. Every method but `wake` belongs to the thread that opened it."""

    def __init__(self, opened: websocket.WebSocket) -> None:
        if opened.sock is None:
            raise TransientError("the connection broke: it was closed right after the handshake")
        self._websocket = opened
        self._socket: socket.socket = opened.sock
        self._socket.setblocking(False)
        self._tls = self._socket if isinstance(self._socket, ssl.SSLSocket) else None
        self._broken: OSError | None = None
        self._unread: TransientError | None = None
        self._unanswered: TransientError | None = None
        self.was_empty = True
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket.fileno(), select.POLLIN)
        self._poll.register(self._wake_read.fileno(), select.POLLIN)

    def read(self, timeout_s: float) -> bytes | None:
        """Return what the socket has: b"" if the peer has ended, None after the timeout or at `wake`.

        Sets `was_empty`: whether nothing had waited to be read. Raises TransientError if the connection broke.
        """
        if self._unread is not None:
            raise self._unread
        self.was_empty = not self._has_bytes()
        chunk = None
        if not self.was_empty or self._ready(0.0 if self._unanswered else timeout_s):
            chunk = self._take()
        if not chunk and self._unanswered is not None:
            raise self._unanswered
        return chunk

    def gather(self, first: bytes, now_ns: Callable[[], int], within_ns: int = _GATHER_NS) -> list[Chunk]:
        """Return what `read` has just returned and what arrives in the next moments, each with its time of reading.

        Ends early at `wake`, at a size limit, and at an end or error, which the next `read` reports.
        """
        chunks, size = [(now_ns(), first, self.was_empty)], len(first)
        ends_ns = time.monotonic_ns() + within_ns
        poll, only_bytes = self._poll.poll, [(self._socket.fileno(), select.POLLIN)]
        while size < _GATHER_BYTES and (left_ns := ends_ns - time.monotonic_ns()) > _GATHER_END_NS:
            ready = only_bytes if self._tls and self._tls.pending() else poll(0)
            was_empty = not ready
            if (ready or poll(left_ns / 1e6)) != only_bytes:
                self._ready(0.0)  # Clears a `wake`, which would otherwise end every gathering while the feed is busy.
                break
            try:
                chunk = self._take()
            except TransientError as error:
                self._unread = error
                break
            if chunk:
                chunks.append((now_ns(), chunk, was_empty))
                size += len(chunk)
            elif chunk is not None:  # None: half a TLS record.
                break
        return chunks

    def _has_bytes(self) -> bool:
        """Whether anything, even an error, waits to be read. Cheaper than a read that finds nothing."""
        if self._broken is not None or (self._tls and self._tls.pending()):
            return True
        return any(descriptor == self._socket.fileno() for descriptor, _ in self._poll.poll(0))

    def _ready(self, timeout_s: float) -> bool:
        ready = [descriptor for descriptor, _ in self._poll.poll(max(0.0, timeout_s) * 1000)]
        if self._wake_read.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._wake_read.recv(4096)
        return self._socket.fileno() in ready

    def _take(self) -> bytes | None:
        try:
            if self._broken is not None:
                raise self._broken
            chunk = self._socket.recv(_RECV_BYTES)
            if not self._tls or len(chunk) < 16 << 10:
                return chunk
            # A TLS recv returns one record of at most 16 KiB: join records to the size of a read without TLS.
            return self._with_more(chunk)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError as error:
            raise TransientError(f"the connection broke: {_cause(error)}") from None

    def _with_more(self, chunk: bytes) -> bytes:
        """Return `chunk` and what else TLS has. An error is kept for the next call, so that no bytes are lost."""
        parts, size = [chunk], len(chunk)
        try:
            while chunk and size < _RECV_BYTES:
                chunk = self._socket.recv(_RECV_BYTES - size)
                parts.append(chunk)
                size += len(chunk)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            self._broken = error
        return b"".join(parts)

    def send_text(self, text: str) -> None:
        """Send one message. Raises TransientError if it cannot be sent."""
        self._send(text.encode(), websocket.ABNF.OPCODE_TEXT)

    def ping(self, payload: bytes) -> None:
        """Send a ping with this payload. Raises TransientError."""
        self._send(payload, PING)

    def pong(self, payload: bytes) -> None:
        """Answer a ping. If that fails, `read` raises the error after everything that had arrived before."""
        if self._unanswered is None:
            try:
                self._send(payload, PONG)
            except TransientError as error:
                self._unanswered = error

    def say_goodbye(self, code: int | None) -> None:
        """Send a close frame; reading can go on until the peer ends. Raises TransientError."""
        self._send(b"" if code is None else code.to_bytes(2, "big"), CLOSE)

    def _send(self, payload: bytes, opcode: int) -> None:
        if self._unanswered is not None:  # Part of a frame may be sent: the next one would be read as its rest.
            raise self._unanswered
        self._socket.settimeout(_SEND_TIMEOUT_S)
        try:
            self._websocket.send(payload, opcode)
        except (OSError, websocket.WebSocketException) as error:
            raise TransientError(f"the connection broke while sending: {_cause(error)}") from None
        finally:
            self._socket.setblocking(False)

    def wake(self) -> None:
        """Make a waiting `read` return None at once."""
        with contextlib.suppress(OSError):
            self._wake_write.send(b"!")

    def close(self) -> None:
        """Close the socket."""
        for each in (self._socket, self._wake_read, self._wake_write):
            with contextlib.suppress(OSError):
                each.close()


def connect(
    url: str,
    timeout_s: float,
    given_up: threading.Event | None = None,
    dialer: Dialer | None = None,
    key_setting: str = "the key",
) -> Connection:
    """Open a websocket within `timeout_s`, from name lookup to the end of the handshake, unless `given_up` is set.

    `key_setting` is the setting that an error about the key names. A reused `dialer` remembers which of the host's
    addresses did not work. Raises TerminalError if the key is refused or a proxy variable is wrong, TooManyConnections
    at HTTP 429, otherwise TransientError.
    """
    dialer = dialer or Dialer()
    try:
        opened = within(timeout_s, given_up, lambda attempt: _open(url, dialer, attempt), _close)
    except websocket.WebSocketBadStatusException as error:
        raise _refusal(error.status_code, key_setting) from None
    except (OSError, websocket.WebSocketException, ValueError) as error:
        raise TransientError(f"no connection: {_cause(error)}") from None
    dialer.worked()
    try:
        return Connection(opened)
    except OSError as error:
        _close(opened)
        raise TransientError(f"no connection: {_cause(error)}") from None


def reach(url: str, timeout_s: float) -> str:
    """Connect as `connect` does, but without the handshake: it could replace the key's only connection.

    Return the host and how it was reached. Raises TransientError if it was not, TerminalError as `connect`.
    """
    target, dialer = address_of(url), Dialer()
    try:
        within(timeout_s, None, lambda attempt: open_stream(target, dialer, attempt).close(), lambda _late: None)
    except (OSError, ValueError) as error:
        raise TransientError(f"no connection: {_cause(error)}") from None
    proxy = proxy_for(target)
    return f"{target}" if proxy is None else f"{target}, by the proxy of {proxy.variable},"


def _open(url: str, dialer: Dialer, attempt: "Attempt[Any]") -> websocket.WebSocket:
    stream = open_stream(address_of(url), dialer, attempt)
    try:
        stream.settimeout(left_s(attempt.end_s))
        return websocket.create_connection(
            url,
            socket=stream,
            redirect_limit=0,  # A redirect would carry the key to another host.
            skip_utf8_validation=True,
        )
    except BaseException:
        stream.close()
        raise


def _close(opened: websocket.WebSocket) -> None:
    if opened.sock is not None:
        opened.sock.close()


def _refusal(status: int, key_setting: str) -> RecorderError:
    if status in (401, 403):
        return TerminalError(f"the feed refused the API key (HTTP {status}); correct {key_setting}")
    if status == 429:
        return TooManyConnections("the feed counts another connection on this API key (HTTP 429)")
    return TransientError(f"the feed answered the handshake with HTTP {status}")


def _cause(error: Exception) -> str:
    """Return what went wrong, in words that cannot contain the URL."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the TLS certificate was not accepted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or 'unknown reason'})"
    if isinstance(error, ProxyError):
        return str(error)
    if isinstance(error, TimeoutError | websocket.WebSocketTimeoutException):
        return "it took too long"
    if isinstance(error, socket.gaierror | UnicodeError):
        return "the host's name was not found"
    if isinstance(error, websocket.WebSocketConnectionClosedException):
        return "the peer closed it"
    if isinstance(error, websocket.WebSocketException):
        return "the peer's answer is not a websocket's"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return type(error).__name__
