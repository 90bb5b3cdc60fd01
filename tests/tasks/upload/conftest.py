"""An archived batch or a whole session, and the bucket it is uploaded to."""

import hashlib
import http.server
import secrets
import shutil
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from pydantic import SecretStr
from relay import Relay, relayed

from tasks.compress.parquet import compress
from tasks.records.ledger import FrameCounts, Gap, SessionRecord
from tasks.records.manifest import ConnectionRange, Manifest, Report, Seal, encode
from tasks.records.names import BatchName
from tasks.records.trade import JOURNAL_HEADER
from tasks.storage.store import Store, write_whole
from tasks.upload.bucket import Bucket
from tasks.upload.probe import PROBE
from tasks.validate.schema import Limits
from tasks.validate.split import split

NAME = BatchName("20261124T143000Z-9f3c01ab", 0, 0)
START_NS = 1_795_530_600_000_000_000
DATES = ("2026-11-24", "2026-11-24", "2026-11-25")


@pytest.fixture
def archived(store: Store) -> Callable[..., BatchName]:
    """Puts an archived batch with the given file content into a store: `archived(content, store=…)`."""

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
def relay(object_store: Any) -> Iterator[Relay]:
    """A relay in front of the real store that injects faults: `.answer`, `.passing`, `.seen`, `.port`."""
    with relayed(object_store.server.ports[0]) as it:
        yield it


@pytest.fixture
def bucket_by_relay(bucket: Bucket, relay: Relay) -> Bucket:
    """The test's own bucket, reached through the relay."""
    return replace(bucket, endpoint_url=f"http://127.0.0.1:{relay.port}")


@dataclass
class OddStore:
    """An in-memory S3 store that behaves differently: it answers puts as `answer` says."""

    port: int = 0
    # A name of its own: what a bucket can do is remembered by its place for as long as the process runs.
    name: str = field(default_factory=lambda: f"odd-{secrets.token_hex(4)}")
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    # Gives (status, error code) in place of doing what the request asks, or None to do it.
    answer: Callable[[str, str, Any], tuple[int, str] | None] = lambda method, key, headers: None
    # Whether it answers a put with the SHA-256 that it was sent, and whether it gives that of what it holds.
    repeats: bool = False
    knows: bool = False

    @property
    def puts(self) -> list[str]:
        """The keys that were put, without probes."""
        return [key for method, key in self.requests if method == "PUT" and PROBE not in key]

    @property
    def bucket(self) -> Bucket:
        return Bucket(
            name=self.name, endpoint_url=f"http://127.0.0.1:{self.port}", access_key_id="k", addressing="path",
            secret_access_key=SecretStr("not-to-be-seen"), max_attempts=1,
        )  # fmt: skip


@pytest.fixture
def odd_store() -> Iterator[OddStore]:
    """A loopback store without conditional writes or checksums, not probed yet."""
    odd = OddStore()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            key = unquote(self.path.split("?")[0]).removeprefix(f"/{odd.name}/")
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
            if odd.repeats and self.command == "PUT":
                self.send_header("x-amz-checksum-sha256", self.headers["x-amz-checksum-sha256"])
            if odd.knows and self.command == "HEAD" and refused is None:
                self.send_header("x-amz-checksum-sha256", b64encode(hashlib.sha256(content).digest()).decode())
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


@pytest.fixture(scope="session")
def whole_session(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A session of three batches, two of them of one day, archived once for all tests; none may change it.

    Each has a row and a frame in quarantine, and was cut; between two of them is a gap.
    """
    store = Store(tmp_path_factory.mktemp("whole") / "data").prepare()
    seals = [_seal(store, number) for number in range(3)]
    record = SessionRecord(
        session=NAME.session, feed="finnhub", symbols=("AAPL", "MSFT"), started_ns=START_NS, listening_ns=START_NS,
        ended_ns=START_NS + 10**14, deadline_ns=START_NS + 10**14, outcome="complete", error=None, connections=3,
        frames_received=sum(seal.frames.received for seal in seals), batches=(3,),
        gaps=(Gap(symbols=("AAPL", "MSFT"), start_ns=START_NS, end_ns=START_NS + 10**9, reason="cut"),),
    )  # fmt: skip
    (store.sessions / NAME.session).mkdir()
    write_whole(store.sessions / NAME.session / "session.json", encode(record))
    for name in store.sealed_batches():
        split(store, name, Limits(None, None))
        compress(store, name)
    return store


@pytest.fixture
def whole(store: Store, whole_session: Store) -> Store:
    """A copy of that session in the test's own data folder."""
    shutil.copytree(whole_session.root, store.root, dirs_exist_ok=True)
    return store


@pytest.fixture
def elsewhere(tmp_path: Path) -> Store:
    """Another machine's empty data folder."""
    return Store(tmp_path / "elsewhere").prepare()


def _seal(store: Store, number: int) -> Seal:
    """A batch with its own connection, sealed like a capture's."""
    name, symbols = BatchName(NAME.session, 0, number), ("AAPL", "MSFT")
    start_ns = START_NS + number * 10**13
    lines = [
        f"{number + 1},{seq},{start_ns + seq},{start_ns + seq - 5_000_000},{symbols[seq % 2]},"
        f"{'-1' if seq == 3 else 100 + seq}.50,100,1;2\n".encode()
        for seq in range(1, 11)
    ]
    content = JOURNAL_HEADER + b"".join(lines)
    refused = b'{"kind":"frame","reason":"no JSON","raw":"{"}\n{"kind":"trade","reason":"no price","raw":"{}"}\n'
    left = {name.rejected_frames: refused, name.cut: b"torn"}
    connection = ConnectionRange(
        connection=number + 1, rows=10, first_seq=1, last_seq=10, first_recv_ns=start_ns + 1, last_recv_ns=start_ns + 10
    )
    seal = Seal(
        batch=str(name), feed="finnhub", date=DATES[number], symbols=symbols, lanes=1, opened_ns=start_ns,
        sealed_ns=start_ns + 11, rows=10, bytes=len(content), sha256=hashlib.sha256(content).hexdigest(),
        frames=FrameCounts(received=12, trade=10, control=1, rejected=1), trades_refused=1, connections=(connection,),
        per_symbol={"AAPL": 5, "MSFT": 5}, recovered=True, cut_bytes=4,
        quarantine={file: hashlib.sha256(body).hexdigest() for file, body in left.items()},
    )  # fmt: skip
    for file, body in left.items():
        write_whole(store.quarantine / file, body)
    write_whole(store.sealed / name.sealed, content)
    write_whole(store.sealed / name.seal, encode(seal))
    return seal
