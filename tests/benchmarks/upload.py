"""Measures a checked upload of an archived batch, next to plain `boto3.upload_file` on the same store.

    python tests/benchmarks/upload.py [--repeats 9] [--mib 0.1 1 4 16 256] [--json]

The store is SeaweedFS on loopback, started here. Ours is `upload` as the flow calls it: the file hashed and compared
with its manifest, put create-only with its SHA-256, compared; then the manifest likewise, and a synced receipt.
Beside it `boto3.upload_file` of the same
two files with its own defaults, one after the other, which compares nothing. Turn about, each to keys of its own;
medians. The clients are open.
"""

import argparse
import hashlib
import json
import os
import platform
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import WeedServer  # noqa: E402

from tasks.records.ledger import FrameCounts  # noqa: E402
from tasks.records.manifest import Manifest, Report, Seal, encode  # noqa: E402
from tasks.records.names import BatchName  # noqa: E402
from tasks.storage.store import Store, write_whole  # noqa: E402
from tasks.upload.bucket import Bucket  # noqa: E402
from tasks.upload.uploads import upload_batch  # noqa: E402

NAME = BatchName("20261124T143000Z-9f3c01ab", 0, 0)
MIB = 1 << 20
# Rounds that warm the store's volumes and our descriptions of S3.
WARMING = 3


def archived(folder: Path, size: int) -> Path:
    """Make a data folder with one archived batch of random bytes; return its file."""
    store = Store(folder).prepare()
    place = store.archive_folder("finnhub", "2026-11-24")
    place.mkdir(parents=True, exist_ok=True)
    content = os.urandom(size)
    seal = Seal(
        batch=str(NAME), feed="finnhub", date="2026-11-24", symbols=("AAPL",), lanes=1, opened_ns=0, sealed_ns=0,
        rows=0, bytes=0, sha256="", frames=FrameCounts(), trades_refused=0, connections=(), per_symbol={},
    )  # fmt: skip
    manifest = Manifest(
        batch=str(NAME), file=NAME.archived, layout="A", software="bench", rows=0, bytes=size,
        sha256=hashlib.sha256(content).hexdigest(), first_event_ns=None, last_event_ns=None, first_recv_ns=None,
        last_recv_ns=None, seal=seal, report=Report(rows=0, valid=0, quarantined=0),
    )  # fmt: skip
    write_whole(place / NAME.archived, content)
    write_whole(place / NAME.manifest, encode(manifest))
    return place / NAME.archived


def rates(server: WeedServer, folder: Path, size: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Median wall and CPU seconds of each way for a file of that size."""
    file = archived(folder, size)
    client = server.client()
    client.create_bucket(Bucket=f"bench-{size}")
    bucket = Bucket(
        name=f"bench-{size}", endpoint_url=server.endpoint_url, access_key_id=server.access_key_id,
        secret_access_key=server.secret_access_key, addressing="path",
    )  # fmt: skip

    def ours(number: int) -> None:
        file.with_name(NAME.receipt).unlink(missing_ok=True)
        upload_batch(Store(folder), NAME, replace(bucket, prefix=f"ours/{number}"), time.time_ns)

    def alone(number: int) -> None:
        for each in (file, file.with_name(NAME.manifest)):
            client.upload_file(str(each), bucket.name, f"boto3/{number}/{each.name}")

    ways: dict[str, Callable[[int], None]] = {
        "boto3.upload_file": alone,
        "ours": ours,
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(WARMING + repeats):
        for name, way in ways.items():
            start_s, cpu_s = time.perf_counter(), time.process_time()
            way(number)
            taken[name].append((time.perf_counter() - start_s, time.process_time() - cpu_s))
    return {
        name: (statistics.median(wall for wall, _ in each), statistics.median(cpu for _, cpu in each))
        for name, each in ((name, each[WARMING:]) for name, each in taken.items())
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--mib", type=float, nargs="+", default=[0.1, 1, 4, 16, 256])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(8)]
        ports = tuple(each.getsockname()[1] for each in sockets)
        for each in sockets:
            each.close()
        server = WeedServer(Path(sys.executable).with_name("weed"), Path(folder) / "weed", ports)
        server.start()
        try:
            found = {
                mib: rates(server, Path(folder) / str(mib), int(mib * MIB), options.repeats) for mib in options.mib
            }
        finally:
            server.kill()
    if options.json:
        print(json.dumps(found))
        return
    print("## Upload of an archived batch, to SeaweedFS on loopback\n")
    print(f"{platform.machine()}, {os.cpu_count()} cores; median of {options.repeats}, turn about\n")
    print("| file | way | wall, s | MiB/s | of boto3.upload_file | CPU, s |\n|---|---|---|---|---|---|")
    for mib, ways in found.items():
        alone_s = ways["boto3.upload_file"][0]
        for name, (wall_s, cpu_s) in ways.items():
            print(
                f"| {mib:g} MiB | {name} | {wall_s:.3f} | {mib / wall_s:.0f} | {alone_s / wall_s:.2f} | {cpu_s:.3f} |"
            )


if __name__ == "__main__":
    main()
