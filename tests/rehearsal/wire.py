"""A wire between a client and a server on loopback, which can be cut and mended."""

import socket
import struct
import threading
from contextlib import suppress

_BLOCK_BYTES = 1 << 16


class Wire:
    """Hands bytes on both ways; while it is cut, connections are reset and new ones refused."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._serve()

    def cut(self) -> None:
        """Reset every connection, and accept no other."""
        # A thread that waits in accept() keeps the port listening, unless the socket is shut down first.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for each in self._open:
                with suppress(OSError):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    each.shutdown(socket.SHUT_RD)  # What reads it closes it, which is now a reset.
            self._open.clear()

    def mend(self) -> None:
        """Accept connections again, at the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._serve()

    def _serve(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._upstream))
                with self._lock:
                    self._open |= {client, server}
                for a, b in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(a, b), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while block := source.recv(_BLOCK_BYTES):
                target.sendall(block)
        with self._lock:
            self._open.discard(source)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RD)  # Wakes the thread that reads it, which closes it.
        source.close()
