"""A relay before a real S3 store that can be slow, answer in its place, or act in the middle of a body."""

import http.client
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

BLOCK_BYTES = 64 << 10


@dataclass
class Relay:
    """Hands every request on to the store at `upstream`, unless told otherwise.

    `answer` gives (status, error code) in place of asking the store, or None; `passing` is called with how many bytes
    of a body have been handed on, and may kill, stop or wait; `seen` are the requests so far, (method, path?query), and
    `sha256s` what each request said of its body by `x-amz-checksum-sha256`, "" where nothing.
    """

    upstream: int
    port: int = 0
    seen: list[tuple[str, str]] = field(default_factory=list)
    sha256s: list[str] = field(default_factory=list)
    answer: Callable[[str, str], tuple[int, str] | None] = lambda method, path: None
    passing: Callable[[str, str, int], None] = lambda method, path, sent_bytes: None


def _handler(relay: Relay) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _serve(self) -> None:
            relay.seen.append((self.command, self.path))
            relay.sha256s.append(self.headers.get("x-amz-checksum-sha256", ""))
            refused = relay.answer(self.command, self.path)
            left = int(self.headers.get("Content-Length", 0))
            if refused is not None:
                self.rfile.read(left)
                self._reply(refused[0], {}, f"<Error><Code>{refused[1]}</Code></Error>".encode())
                return
            try:
                self._hand_on(left)
            except OSError:
                # As a store that dies does it: nothing more comes.
                self.close_connection = True

        def _hand_on(self, left: int) -> None:
            store = http.client.HTTPConnection("127.0.0.1", relay.upstream, timeout=30)
            store.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    store.putheader(name, value)
            store.endheaders()
            sent = 0
            relay.passing(self.command, self.path, 0)
            while left:
                block = self.rfile.read(min(left, BLOCK_BYTES))
                if not block:
                    raise ConnectionError
                store.send(block)
                left, sent = left - len(block), sent + len(block)
                relay.passing(self.command, self.path, sent)
            reply = store.getresponse()
            content = reply.read()
            kept = {k: v for k, v in reply.getheaders() if k.lower() not in {"transfer-encoding", "connection"}}
            self._reply(reply.status, kept, content)
            store.close()

        def _reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response_only(status)
            if self.command != "HEAD" or not headers:
                headers = {**{k: v for k, v in headers.items() if k.lower() != "content-length"},
                           "Content-Length": str(len(content))}  # fmt: skip
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    return Handler


@contextmanager
def relayed(upstream: int) -> Iterator[Relay]:
    """A relay before the store at that port of loopback."""
    relay = Relay(upstream)

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # A client that was killed.

    with Server(("127.0.0.1", 0), _handler(relay)) as server:
        relay.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield relay
        finally:
            server.shutdown()
            thread.join()
