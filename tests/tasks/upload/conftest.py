"""An archived batch and the bucket it goes to."""

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

import pytest
from pydantic import SecretStr
from relay import Relay, relayed

from tasks.batch import BatchName
from tasks.ledger import FrameCounts
from tasks.manifest import Manifest, Report, Seal, encode
from tasks.store import Store, write_whole
from tasks.upload import habits
from tasks.upload.bucket import Bucket

NAME = BatchName("20261124T143000Z-9f3c01ab", 0, 0)


@pytest.fixture
def archived(store: Store) -> Callable[..., BatchName]:
    """Puts an archived batch into a store, whose file holds the bytes given: `archived(content, store=…)`."""

    def archive(content: bytes | None = b"PAR1 a batch PAR1" * 100, *, into: Store = store) -> BatchName:
        folder = into.archive_folder("finnhub", "2026-11-24")
        folder.mkdir(parents=True, exist_ok=True)
        seal = Seal(
            batch=str(NAME), feed="finnhub", date="2026-11-24", symbols=("AAPL",), lanes=1, opened_ns=0, sealed_ns=0,
            rows=0, bytes=0, sha256="", frames=FrameCounts(), trades_refused=0, connections=(), per_symbol={},
        )  # fmt: skip
        manifest = Manifest(
            batch=str(NAME), file=None if content is None else NAME.archived, layout="A", software="test", rows=0,
            bytes=len(content or b""), sha256=hashlib.sha256(content or b"").hexdigest(), first_event_ns=None,
            last_event_ns=None, first_recv_ns=None, last_recv_ns=None, seal=seal,
            report=Report(rows=0, valid=0, quarantined=0),
        )  # fmt: skip
        if content is not None:
            write_whole(folder / NAME.archived, content)
        write_whole(folder / NAME.manifest, encode(manifest))
        return NAME

    return archive


@pytest.fixture
def bucket(object_store: Any) -> Bucket:
    """The test's own bucket, as the settings give it."""
    server = object_store.server
    return Bucket(
        name=object_store.bucket, endpoint_url=server.endpoint_url, access_key_id=server.access_key_id,
        secret_access_key=SecretStr(server.secret_access_key), addressing="path", max_attempts=1,
        connect_timeout_s=2.0, read_timeout_s=10.0,
    )  # fmt: skip


@pytest.fixture
def relay(object_store: Any) -> Iterator[Relay]:
    """A relay before the real store, through which faults come: `.answer`, `.passing`, `.seen`, `.port`."""
    with relayed(object_store.server.ports[0]) as it:
        yield it


@pytest.fixture
def bucket_by_relay(bucket: Bucket, relay: Relay) -> Bucket:
    """The test's own bucket, reached through the relay."""
    return replace(bucket, endpoint_url=f"http://127.0.0.1:{relay.port}")


@dataclass
class OddStore:
    """An S3 store with other habits: keeps objects in memory, and answers puts as `answer` says."""

    port: int = 0
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    # Gives (status, error code) in place of doing what the request asks, or None to do it.
    answer: Callable[[str, str, Any], tuple[int, str] | None] = lambda method, key, headers: None

    @property
    def bucket(self) -> Bucket:
        return Bucket(
            name="odd", endpoint_url=f"http://127.0.0.1:{self.port}", access_key_id="k", addressing="path",
            secret_access_key=SecretStr("not-to-be-seen"), max_attempts=1,
        )  # fmt: skip


@pytest.fixture
def odd_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[OddStore]:
    """A loopback server that knows neither conditions nor checksums, and of which nothing is known either."""
    odd = OddStore()
    monkeypatch.setattr(habits, "_SEEN", {})

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            key = unquote(self.path.split("?")[0]).removeprefix("/odd/")
            odd.requests.append((self.command, key))
            refused = odd.answer(self.command, key, self.headers)
            if refused is None and self.command in {"GET", "HEAD"} and key not in odd.objects:
                refused = (404, "NoSuchKey")
            if refused is not None:
                status, code = refused
                content = f"<Error><Code>{code}</Code><Message>not-to-be-seen</Message></Error>".encode()
            else:
                status = 204 if self.command == "DELETE" else 200
                if self.command == "PUT":
                    odd.objects[key] = body
                content = odd.objects[key] if self.command in {"GET", "HEAD"} else b""
                if self.command == "DELETE":
                    odd.objects.pop(key, None)
            self.send_response(status)
            self.send_header("ETag", '"odd"')
            if status != 204:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_PUT = do_DELETE = _serve

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        odd.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield odd
        server.shutdown()
        thread.join()
