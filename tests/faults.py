"""A loopback Finnhub that does whatever its script says, byte by byte.

Plain sockets and threads, no websocket library: a library does not send what must not be sent. Each connection
runs the next script, a sequence of steps:

    with FaultServer([Subscribed("A"), Send(trades), Reset()], [Subscribed("A"), Send(more), Close(1012)]) as server:
        …record from server.url…
    assert archived == server.sent

Steps before `Accept` or `Answer` come before the handshake's answer; a script with neither begins with `Accept()`.
After its last step a connection listens, answers pings and closes when the client does. A wait that takes longer
than `WITHIN_S` fails the test when the server is left.
"""

import base64
import hashlib
import json
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from tasks.records.trade import Trade
from tasks.replay.finnhub import TradeWriter
from tasks.replay.tape_file import row_of
from tasks.replay.vendor import EventTimes

WITHIN_S = 20.0
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
_TRUTH = EventTimes(0, 0, 1)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, right or wrong: `length` may lie, `length_bytes` (0, 2, 8) may be longer than needed."""

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0
    masked: bool = False
    length: int | None = None
    length_bytes: int | None = None

    def __bytes__(self) -> bytes:
        length = len(self.payload) if self.length is None else self.length
        size = self.length_bytes
        if size is None:
            size = 0 if length < 126 else 2 if length < 1 << 16 else 8
        short = {0: length, 2: 126, 8: 127}[size]
        head = bytes([self.fin << 7 | self.rsv << 4 | self.opcode, self.masked << 7 | short])
        # A mask of four zero bytes leaves the payload as it is.
        mask = bytes(4) if self.masked else b""
        return head + (length.to_bytes(size, "big") if size else b"") + mask + self.payload


class Step(Protocol):
    """One thing that a connection does."""

    def run(self, connection: "Connection") -> None: ...


@dataclass(frozen=True, slots=True)
class Accept:
    """Answer the handshake with 101; with `wrong_key` as a server that did not understand it, `extra` header lines."""

    wrong_key: bool = False
    extra: bytes = b""

    def run(self, connection: "Connection") -> None:
        key = connection.read_request()["sec-websocket-key"] + ("x" if self.wrong_key else "")
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        accept = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + base64.b64encode(digest)
        connection.write(b"HTTP/1.1 101 Switching Protocols\r\n" + accept + b"\r\n" + self.extra + b"\r\n")
        connection.start_hearing()


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer the handshake with that HTTP status, and end the connection."""

    status: int
    body: bytes = b"no\n"
    extra: bytes = b""

    def run(self, connection: "Connection") -> None:
        connection.read_request()
        head = f"HTTP/1.1 {self.status} Status\r\nContent-Length: {len(self.body)}\r\nConnection: close\r\n"
        connection.write(head.encode() + self.extra + b"\r\n" + self.body)
        connection.drop()


@dataclass(frozen=True, slots=True)
class Subscribed:
    """Wait until the client has subscribed to all these symbols."""

    symbols: tuple[str, ...]

    def __init__(self, *symbols: str) -> None:
        object.__setattr__(self, "symbols", symbols)

    def run(self, connection: "Connection") -> None:
        connection.wait_until(lambda: connection.subscribed >= set(self.symbols), f"subscriptions to {self.symbols}")


@dataclass(frozen=True, slots=True)
class Send:
    """One message of trades, in `fragments` frames with the frames `between` after the first.

    `slowly` writes so many bytes at a time, `pause_s` apart. With `cut_after` only so many of its bytes are
    written: follow it with Drop, Reset, Stall or Mute.
    """

    trades: Sequence[Trade]
    fragments: int = 1
    between: Sequence[Frame] = ()
    slowly: int | None = None
    pause_s: float = 0.0
    cut_after: int | None = None

    def run(self, connection: "Connection") -> None:
        content = self.content()
        connection.send(self.trades, content[: self.cut_after], len(content), self.slowly, self.pause_s)

    def content(self) -> bytes:
        """All its bytes on the wire, uncut."""
        return b"".join(map(bytes, self.frames()))

    def frames(self) -> list[Frame]:
        """Its frames, uncut."""
        payload = TradeWriter().message(list(map(row_of, self.trades)), _TRUTH)
        parts = _parts(payload, max(1, -(-len(payload) // self.fragments)))
        last = len(parts) - 1
        cut = [Frame(CONTINUATION if n else TEXT, part, fin=n == last) for n, part in enumerate(parts)]
        return [cut[0], *self.between, *cut[1:]]


@dataclass(frozen=True, slots=True)
class Raw:
    """Write these bytes as they are: garbage, or `bytes(Frame(…))`."""

    content: bytes

    def run(self, connection: "Connection") -> None:
        connection.write(self.content)


@dataclass(frozen=True, slots=True)
class Text:
    """One text message, such as the vendor's `{"type":"ping"}`."""

    text: str

    def run(self, connection: "Connection") -> None:
        connection.write(bytes(Frame(TEXT, self.text.encode())))


@dataclass(frozen=True, slots=True)
class Close:
    """A close frame, without a code where it is None. What follows it is still sent."""

    code: int | None = 1000
    reason: str = ""

    def run(self, connection: "Connection") -> None:
        payload = b"" if self.code is None else struct.pack("!H", self.code) + self.reason.encode()
        connection.close_sent = True
        connection.write(bytes(Frame(CLOSE, payload)))


@dataclass(frozen=True, slots=True)
class Drop:
    """End the stream with a FIN and without a close frame."""

    def run(self, connection: "Connection") -> None:
        connection.drop()


@dataclass(frozen=True, slots=True)
class Reset:
    """End with a RST. The peer's kernel may throw away what the client has not read: wait for that before."""

    def run(self, connection: "Connection") -> None:
        connection.reset()


@dataclass(frozen=True, slots=True)
class Stall:
    """Send nothing until the event is set; pings are answered."""

    event: threading.Event

    def run(self, connection: "Connection") -> None:
        connection.wait_for(self.event)


@dataclass(frozen=True, slots=True)
class Mute:
    """Half-open: neither read nor answer nor send until the event is set."""

    event: threading.Event

    def run(self, connection: "Connection") -> None:
        connection.hearing.clear()
        connection.wait_for(self.event)
        connection.hearing.set()


@dataclass(frozen=True, slots=True)
class Signal:
    """Tell the test that the script has come this far."""

    event: threading.Event

    def run(self, connection: "Connection") -> None:
        self.event.set()


@dataclass(frozen=True, slots=True)
class Heard:
    """What the client sent: subscribe or unsubscribe with the symbol, ping, pong, close, or text with its payload."""

    kind: str
    what: str | bytes = b""


@dataclass(frozen=True, slots=True)
class Written:
    """One message of trades as it was written: from when to when (UTC ns), and whether all of it."""

    trades: Sequence[Trade]
    began_ns: int
    ended_ns: int
    whole: bool


class Gone(Exception):
    """The connection ended while a step was running."""


class Connection:
    """One connection as the server saw it. A test reads the attributes; the methods are for the steps.

    `sent` are the trades of messages that are wholly on the wire, `cut` those of messages that are not; `heard`
    is what the client sent, in order; `path` holds its token; `gone` is set once the connection is over. `written`
    are the messages of trades, whole or not, in order; it may lag behind while one is being written.
    """

    def __init__(self, server: "FaultServer", accepted: socket.socket, steps: Sequence[Step]) -> None:
        self.path = ""
        self.heard: list[Heard] = []
        self.subscribed: set[str] = set()
        self.written: list[Written] = []
        self._sent: list[Trade] = []
        self._cut: list[Trade] = []
        self.gone = threading.Event()
        self.hearing = threading.Event()
        self.close_sent = False
        self._server = server
        self._socket = accepted
        self._steps = steps
        self._changed = threading.Condition()
        self._answers = True
        # Keeps pongs out of a message, and an SSL object from being used by two threads at once.
        self._io = threading.RLock()
        self._hearer: threading.Thread | None = None
        self._script = threading.Thread(target=self._run, name="fault script", daemon=True)

    def play(self) -> None:
        """Begin the script."""
        self._script.start()

    @property
    def sent(self) -> list[Trade]:
        """The trades wholly on the wire; waits for the end of a message that is being written."""
        with self._account():
            return list(self._sent)

    @property
    def cut(self) -> list[Trade]:
        """The trades of messages that were not written whole; waits likewise."""
        with self._account():
            return list(self._cut)

    @contextmanager
    def _account(self) -> Iterator[None]:
        # A client may have a message's last byte before the server has counted it.
        if not self._io.acquire(timeout=WITHIN_S):
            raise TimeoutError(f"a message is being written for {WITHIN_S} s: the client does not read it")
        try:
            yield
        finally:
            self._io.release()

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait for something that the client does. Raises Gone, or TimeoutError after WITHIN_S."""
        with self._changed:
            done = self._changed.wait_for(lambda: holds() or self.gone.is_set(), WITHIN_S)
        if not done:
            raise TimeoutError(f"no {what} within {WITHIN_S} s; the client sent {self.heard}")
        if not holds():
            raise Gone

    def wait_heard(self, kind: str, what: str | bytes | None = None) -> None:
        """Wait until the client has sent that, with any content where `what` is None."""
        wanted = lambda heard: heard.kind == kind and what in (None, heard.what)  # noqa: E731
        self.wait_until(lambda: any(map(wanted, self.heard)), f"{kind} {what!r}")

    def wait_for(self, event: threading.Event) -> None:
        """Wait for the test. Raises Gone, or TimeoutError after WITHIN_S."""
        latest_s = time.monotonic() + WITHIN_S
        while not event.wait(0.02):
            if self.gone.is_set():
                raise Gone
            if time.monotonic() > latest_s:
                raise TimeoutError(f"nobody set the event of a step within {WITHIN_S} s")

    def read_request(self) -> dict[str, str]:
        """The handshake's headers, names in lower case. The request's path goes to `path`."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self._socket.recv(1)
            if not byte:
                raise Gone
            head += byte
        first, *lines = head.decode().split("\r\n")[:-2]
        self.path = first.split(" ")[1]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def start_hearing(self) -> None:
        """From now on the client is heard and answered."""
        self.hearing.set()
        self._hearer = threading.Thread(target=self._hear, name="fault hearer", daemon=True)
        self._hearer.start()

    def write(self, content: bytes) -> None:
        """Write all of it. Raises Gone."""
        try:
            with self._io:
                self._socket.sendall(content)
        except OSError as error:
            raise Gone from error

    def send(self, trades: Sequence[Trade], content: bytes, whole: int, slowly: int | None, pause_s: float) -> None:
        """Write a message of trades of `whole` bytes, or its beginning, and keep the account. Raises Gone."""
        with self._io:
            written, began_ns = 0, time.time_ns()
            try:
                for part in _parts(content, slowly):
                    self.write(part)
                    written += len(part)
                    time.sleep(pause_s)
            finally:
                self.written.append(Written(trades, began_ns, time.time_ns(), written == whole))
                (self._sent if written == whole else self._cut).extend(trades)
                self._answers = self._answers and written == whole

    def drop(self) -> None:
        """Send a FIN; the client is still heard."""
        self._answers = False
        self._shut(socket.SHUT_WR)

    def reset(self) -> None:
        """Send a RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.end(socket.SHUT_RD)

    def end(self, how: int = socket.SHUT_RDWR) -> None:
        """Close the socket, once no thread waits in it: that would hold it open. May be called twice."""
        self._answers = False
        self._over()
        self._shut(how)
        if self._hearer is not None and self._hearer.ident is not None:  # It may be about to be started.
            self._hearer.join(WITHIN_S)
        self._socket.close()

    def join(self) -> None:
        """Wait for the script's end, which `end` brings about."""
        self._script.join(2 * WITHIN_S)

    def _shut(self, how: int) -> None:
        with suppress(OSError):
            socket.socket.shutdown(self._socket, how)  # a TLS socket's own would end the encryption first

    def _over(self) -> None:
        self.hearing.set()
        with self._changed:
            self.gone.set()
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._server.tls is not None:
                self._socket = self._server.tls.wrap_socket(self._socket, server_side=True)
            for step in self._steps:
                step.run(self)
            if self._hearer is not None:
                self._hearer.join()
            else:
                while self._socket.recv(4096):
                    pass
        except (Gone, OSError) as error:
            if isinstance(error, TimeoutError):
                self._server.errors.append(error)
        except Exception as error:
            self._server.errors.append(error)
        finally:
            self.end()

    def _hear(self) -> None:
        received = bytearray()
        try:
            while content := self._receive():
                received += content
                while frame := _take_frame(received):
                    self._take(*frame)
        except (Gone, OSError, ValueError):  # The last where the socket was closed before the hearer looked.
            pass
        finally:
            self._over()

    def _receive(self) -> bytes:
        if not (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
            select.select([self._socket], [], [])
        self.hearing.wait()
        if not isinstance(self._socket, ssl.SSLSocket):
            return self._socket.recv(1 << 16)
        with self._io:
            return self._socket.recv(1 << 16)

    def _take(self, opcode: int, payload: bytes) -> None:
        with self._changed:
            self.heard.append(_heard(opcode, payload))
            if self.heard[-1].kind == "subscribe":
                self.subscribed.add(str(self.heard[-1].what))
            elif self.heard[-1].kind == "unsubscribe":
                self.subscribed.discard(str(self.heard[-1].what))
            self._changed.notify_all()
        if opcode == PING:
            self._answer(Frame(PONG, payload))
        elif opcode == CLOSE:
            with self._io:  # A script that still sends must not get in between: nothing follows the answer to a close.
                if not self.close_sent:
                    self._answer(Frame(CLOSE, payload))
                self.drop()

    def _answer(self, frame: Frame) -> None:
        with self._io:
            if self._answers:
                self.write(bytes(frame))


class FaultServer:
    """Listens on loopback and plays `scripts`, one for each connection in turn, then `then` for every further one.

    `url` has no token; it is `wss://localhost:…` where `tls` is given. Leaving it ends every connection and
    raises the first error of a script, such as a wait that took too long.
    """

    def __init__(
        self, *scripts: Sequence[Step], then: Sequence[Step] = (Answer(503),), tls: ssl.SSLContext | None = None
    ) -> None:
        self.tls = tls
        self.errors: list[Exception] = []
        self.connections: list[Connection] = []
        self._scripts = scripts
        self._then = then
        self._arrived = threading.Condition()
        self._port = 0
        self.listen()

    @property
    def url(self) -> str:
        return f"wss://localhost:{self._port}" if self.tls else f"ws://127.0.0.1:{self._port}"

    @property
    def sent(self) -> list[Trade]:
        """The trades wholly on the wire, connection by connection."""
        return [trade for connection in self.connections for trade in connection.sent]

    @property
    def cut(self) -> list[Trade]:
        """The trades of messages that were not written whole."""
        return [trade for connection in self.connections for trade in connection.cut]

    def connection(self, number: int) -> Connection:
        """The `number`-th connection, from 0; waits for it. Raises TimeoutError after WITHIN_S."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.connections) > number, WITHIN_S):
                raise TimeoutError(f"{len(self.connections)} connections within {WITHIN_S} s, not {number + 1}")
            return self.connections[number]

    def listen(self) -> None:
        """Accept connections, again on the same port after `refuse`."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, args=(self._listener,), name="fault door", daemon=True)
        self._acceptor.start()

    def refuse(self) -> None:
        """Let the kernel refuse every new connection; those that are open go on."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in it
        self._acceptor.join(WITHIN_S)
        self._listener.close()

    def stop(self) -> None:
        """End everything. Raises the first error of a script."""
        self.refuse()
        for connection in self.connections:
            connection.end()
        for connection in self.connections:
            connection.join()
        if self.errors:
            raise self.errors[0]

    def __enter__(self) -> "FaultServer":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.stop()
        except Exception as of_script:
            if error is None:
                raise
            error.add_note(f"a script failed, too: {of_script!r}")

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            with self._arrived:
                number = len(self.connections)
                steps = self._scripts[number] if number < len(self._scripts) else self._then
                if not any(isinstance(step, Accept | Answer) for step in steps):
                    steps = [Accept(), *steps]
                connection = Connection(self, accepted, steps)
                self.connections.append(connection)  # Before the client can have heard from it.
                connection.play()
                self._arrived.notify_all()


def _parts(content: bytes, size: int | None) -> list[bytes]:
    size = size or max(1, len(content))
    return [content[at : at + size] for at in range(0, len(content), size)]


def _take_frame(received: bytearray) -> tuple[int, bytes] | None:
    """Cut the first whole frame from what a client sent: opcode, unmasked payload. Ours send no fragments."""
    if len(received) < 2:
        return None
    short, start = received[1] & 0x7F, 2
    if short > 125:
        start = 4 if short == 126 else 10
    length = int.from_bytes(received[2:start], "big") if start > 2 else short
    if len(received) < start + 4 + length:
        return None
    mask, payload = received[start : start + 4], received[start + 4 : start + 4 + length]
    opcode = received[0] & 0x0F
    del received[: start + 4 + length]
    return opcode, bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def _heard(opcode: int, payload: bytes) -> Heard:
    if opcode in (PING, PONG, CLOSE):
        return Heard({PING: "ping", PONG: "pong", CLOSE: "close"}[opcode], payload)
    with suppress(ValueError, AttributeError):
        said = json.loads(payload)
        if said.get("type") in ("subscribe", "unsubscribe"):
            return Heard(said["type"], said.get("symbol"))
    return Heard("text", payload)


StartServer = Callable[..., FaultServer]
