"""An HTTP proxy for tests: answers CONNECT and relays the bytes."""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class ConnectProxy:
    """A proxy on loopback. Whatever host is asked for, it connects to `upstream`; or answers `refusal`, where given.

    `asked` are the requests that came, each its lines.
    """

    port: int
    upstream: tuple[str, int]
    refusal: bytes | None = None
    asked: list[list[str]] = field(default_factory=list)

    def serve(self, client: socket.socket) -> None:
        """One client, until either side ends."""
        with client, suppress(OSError):
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                byte = client.recv(1)
                if not byte:
                    return
                head += byte
            self.asked.append(head.decode().split("\r\n")[:-2])
            if self.refusal is not None:
                client.sendall(self.refusal)
                return
            with socket.create_connection(self.upstream) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\nVia: a proxy\r\n\r\n")
                _hand_on(client, server)


def _hand_on(one: socket.socket, other: socket.socket) -> None:
    ways = {one: other, other: one}
    while True:
        for ready in select.select(list(ways), [], [], 0.5)[0]:
            content = ready.recv(64 << 10)
            if not content:
                return
            ways[ready].sendall(content)


@contextmanager
def proxying(upstream: tuple[str, int], refusal: bytes | None = None) -> Iterator[ConnectProxy]:
    """A proxy that runs until it is left."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = ConnectProxy(listener.getsockname()[1], upstream, refusal)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=proxy.serve, args=(client,), name="proxy client", daemon=True).start()

        door = threading.Thread(target=accept, name="proxy door", daemon=True)
        door.start()
        yield proxy
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        door.join(5)
