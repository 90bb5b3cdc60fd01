"""How are bytes got from the vendor, and requests sent? The only door to websocket-client.

The library makes the connection (proxy, TLS, handshake) and frames what is sent. What arrives is taken from the
socket as it is, everything at once, and cut by `frames.py`. One thread owns a connection and does both: Python's
TLS sockets may not be read and written by two threads at a time. `wake` may be called from any thread.

No text of the library's exceptions is passed on: the URL that they may quote holds the key.
"""

import contextlib
import select
import socket
import ssl
import threading
import time
from concurrent.futures import Future, wait

import websocket

from tasks.capture.frames import CLOSE, PING, PONG
from tasks.errors import RecorderError, TerminalError, TransientError

# One recv takes at most this much: some hundred trades for one system call, and what is made of them (messages,
# objects, lines) still fits into the processor's cache. 256 KiB cost a tenth more, 1 MiB a third (`make bench`).
_RECV_BYTES = 32 << 10
# What the kernel holds while we do not read: seconds of a burst.
_SO_RCVBUF_BYTES = 8 << 20
_SEND_TIMEOUT_S = 10.0
_LOOK_EVERY_S = 0.1


class TooManyConnections(TransientError):
    """The vendor still counts another connection on this key: it takes a minute and more to forget one."""


class Connection:
    """One open websocket. Every method but `wake` belongs to the thread that opened it."""

    def __init__(self, opened: websocket.WebSocket) -> None:
        if opened.sock is None:
            raise TransientError("the connection broke: it was closed right after the handshake")
        self._websocket = opened
        self._socket: socket.socket = opened.sock
        self._socket.setblocking(False)
        self._tls = isinstance(self._socket, ssl.SSLSocket)
        self._broken: OSError | None = None
        self._unanswered: TransientError | None = None
        self.was_empty = True
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket.fileno(), select.POLLIN)
        self._poll.register(self._wake_read.fileno(), select.POLLIN)

    def read(self, timeout_s: float) -> bytes | None:
        """What the socket has: b"" when the peer has ended, None when nothing came within the time or at `wake`.

        Raises TransientError where the connection broke. `was_empty` then says whether nothing had waited to be read.
        """
        chunk = self._take()
        self.was_empty = chunk is None
        if chunk is None and self._ready(0.0 if self._unanswered else timeout_s):
            chunk = self._take()
        if not chunk and self._unanswered is not None:
            raise self._unanswered
        return chunk

    def _ready(self, timeout_s: float) -> bool:
        events = self._poll.poll(max(0.0, timeout_s) * 1000)
        if any(descriptor == self._wake_read.fileno() for descriptor, _ in events):
            with contextlib.suppress(BlockingIOError):
                self._wake_read.recv(4096)
        return any(descriptor == self._socket.fileno() for descriptor, _ in events)

    def _take(self) -> bytes | None:
        try:
            if self._broken is not None:
                raise self._broken
            chunk = self._socket.recv(_RECV_BYTES)
            if not self._tls or len(chunk) < 16 << 10:
                return chunk
            # A TLS recv gives one record, of at most 16 KiB: join what is there to the same size as without TLS.
            return self._with_more(chunk)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError as error:
            raise TransientError(f"the connection broke: {_cause(error)}") from None

    def _with_more(self, chunk: bytes) -> bytes:
        """What else TLS has, after `chunk`. An error waits until the next call: what came before it is not lost."""
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
        """Send one message. Raises TransientError where it cannot be sent."""
        self._send(text.encode(), websocket.ABNF.OPCODE_TEXT)

    def ping(self, payload: bytes) -> None:
        """Ask for a pong with this payload. Raises TransientError."""
        self._send(payload, PING)

    def pong(self, payload: bytes) -> None:
        """Answer a ping. Where that fails, `read` says so, after all that had come before: it can still be read."""
        if self._unanswered is None:
            try:
                self._send(payload, PONG)
            except TransientError as error:
                self._unanswered = error

    def say_goodbye(self, code: int | None) -> None:
        """Send a close frame; what still arrives can be read until the peer ends. Raises TransientError."""
        self._send(b"" if code is None else code.to_bytes(2, "big"), CLOSE)

    def _send(self, payload: bytes, opcode: int) -> None:
        if self._unanswered is not None:  # Part of a frame may be out: another would be read as its rest.
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
        """Let go of the socket."""
        for each in (self._socket, self._wake_read, self._wake_write):
            with contextlib.suppress(OSError):
                each.close()


def connect(address: str, timeout_s: float, given_up: threading.Event | None = None) -> Connection:
    """Open a websocket, within `timeout_s` from name look-up to the end of the handshake, unless it is given up.

    Raises TerminalError where the key is refused, TooManyConnections at HTTP 429, else TransientError.
    """
    attempt: Future[websocket.WebSocket] = Future()
    # The library bounds each step, not their sum: a host with many addresses, or a handshake that comes byte by byte,
    # would take minutes. So the attempt is made by a thread that can be left alone.
    threading.Thread(target=_attempt, args=(address, timeout_s, attempt), name="connect", daemon=True).start()
    end_s = time.monotonic() + timeout_s
    while not attempt.done() and (left_s := end_s - time.monotonic()) > 0 and not (given_up and given_up.is_set()):
        wait([attempt], min(left_s, _LOOK_EVERY_S))
    if not attempt.done():
        # The library's own time-out says the same a moment later; what it opens after all is closed.
        attempt.add_done_callback(_close_late)
        raise TransientError("no connection: it took too long")
    try:
        opened = attempt.result()
    except websocket.WebSocketBadStatusException as error:
        raise _refusal(error.status_code) from None
    except (OSError, websocket.WebSocketException, ValueError) as error:
        raise TransientError(f"no connection: {_cause(error)}") from None
    try:
        return Connection(opened)
    except OSError as error:
        if opened.sock is not None:
            opened.sock.close()
        raise TransientError(f"no connection: {_cause(error)}") from None


def _attempt(address: str, timeout_s: float, attempt: "Future[websocket.WebSocket]") -> None:
    try:
        opened = websocket.create_connection(
            address,
            timeout=timeout_s,
            sockopt=[(socket.SOL_SOCKET, socket.SO_RCVBUF, _SO_RCVBUF_BYTES)],
            redirect_limit=0,  # A redirect would carry the key to another host.
            skip_utf8_validation=True,
        )
    except BaseException as error:
        attempt.set_exception(error)
    else:
        attempt.set_result(opened)


def _close_late(attempt: "Future[websocket.WebSocket]") -> None:
    if attempt.exception() is None:
        late = attempt.result().sock
        if late is not None:
            late.close()


def _refusal(status: int) -> RecorderError:
    if status in (401, 403):
        return TerminalError(
            f"the feed refused the API key (HTTP {status}); set FINNHUB_API_KEY to the key of your dashboard"
        )
    if status == 429:
        return TooManyConnections("the feed counts another connection on this API key (HTTP 429)")
    return TransientError(f"the feed answered the handshake with HTTP {status}")


def _cause(error: Exception) -> str:
    """What went wrong, in words that cannot hold the address."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the TLS certificate was not accepted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or 'unknown reason'})"
    if isinstance(error, TimeoutError | websocket.WebSocketTimeoutException):
        return "it took too long"
    if isinstance(error, websocket.WebSocketAddressException | socket.gaierror | UnicodeError):
        return "the host's name was not found"
    if isinstance(error, websocket.WebSocketConnectionClosedException):
        return "the peer closed it"
    if isinstance(error, websocket.WebSocketProxyException):
        return "the proxy refused it"
    if isinstance(error, websocket.WebSocketException):
        return "the peer's answer is not a websocket's"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return type(error).__name__
