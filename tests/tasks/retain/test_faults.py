"""After a kill, on a full disk, or with two runs at once, every row has a copy and the end state is the same."""

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tasks.records.manifest import Day, Manifest, Receipt, read
from tasks.records.names import BatchName, removed_record
from tasks.retain.retain import retain
from tasks.retain.rule import Retained, Rule
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket

from .conftest import DATE, NAMES, files, remote_of, send

# The bucket is a folder, so that a removal there is a change of the disk as well.
PROGRAM = """
import hashlib, os, resource, signal, sys
from pathlib import Path
from tasks.records.manifest import Place
from tasks.retain.retain import retain
from tasks.retain.rule import Remote, Rule
from tasks.storage.store import Store

root, bucket, endpoint, mode = Path(sys.argv[1]), *sys.argv[2:5]
rule = Rule(batches_for_ns=0) if mode == "merged" else Rule(local_for_ns=0)

def run(folder):
    def stands(receipt):
        path = folder / "there" / receipt.key
        return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == receipt.sha256
    def remove(keys):
        for key in keys:
            (folder / "there" / key).unlink(missing_ok=True)
    remote = Remote("there", Place(bucket=bucket, endpoint=endpoint, prefix="trades"), stands, remove)
    return retain(Store(folder / "data"), rule, lambda: 2**62, lambda: 0, remote)

def kill_at(number):
    seen = 0
    def hook(event, args):
        nonlocal seen
        if event not in {"open", "os.rename", "os.remove", "os.unlink"}:
            return
        if event == "open" and not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

for at in range(1, 200):
    child = os.fork()
    if child == 0:
        os.system(f"cp -rp {root}/start {root}/{at}")
        kill_at(at)
        run(root / str(at))
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
os.system(f"cp -rp {root} {root}-killed")
for number in range(1, at + 1):
    run(root / str(number))
print(at)
"""


def in_a_folder(object_store: Any, folder: Path) -> None:
    """What the bucket holds, as files."""
    keys = object_store.keys()
    for key in keys:
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(object_store.body(key))


def is_whole(path: Path, sha256: str) -> bool:
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def assert_every_row_is_somewhere(folder: Path) -> None:
    """Check that each batch has a complete copy (own file, day's file, or either in the bucket), all recorded."""
    store = Store(folder / "data")
    record = store.day_record("finnhub", DATE)
    day = read(record, Day)
    receipt = read(record.with_name(f"_{DATE}.receipt.json"), Receipt)
    assert day.file is not None
    assert receipt.object is not None
    day_whole = [
        is_whole(path, day.sha256) for path in (record.with_name(day.file), folder / "there" / receipt.object.key)
    ]
    assert all(day_whole) or removed_record(record).exists()
    manifests = store.manifests()
    assert [BatchName.parse(path.name) for path in manifests] == NAMES
    for path in manifests:
        manifest = read(path, Manifest)
        own = path.with_name(str(manifest.file))
        assert own.exists() or removed_record(path).exists()
        there = folder / "there" / f"trades/feed=finnhub/date={DATE}" / own.name
        assert is_whole(own, manifest.sha256) or is_whole(there, manifest.sha256) or any(day_whole)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["merged", "age"])
def test_killed_at_any_change(
    store: Store, closed: Path, bucket: Bucket, object_store: Any, tmp_path: Path, mode: str
) -> None:
    """Killed before any local or bucket change, nothing is lost, and the next run reaches the same end."""
    send(store, bucket, DATE)
    root = tmp_path / "root"
    in_a_folder(object_store, root / "start" / "there")
    store.root.rename(root / "start" / "data")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root), bucket.name, str(bucket.endpoint_url), mode],
        env={**os.environ, "POLARS_MAX_THREADS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    killed = int(run.stdout)
    assert killed > 12
    ends = []
    for at in range(1, killed + 1):
        assert_every_row_is_somewhere(tmp_path / "root-killed" / str(at))
        assert_every_row_is_somewhere(root / str(at))
        there = root / str(at) / "there"
        left = {str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()}
        ends.append((files(Store(root / str(at) / "data")), left))
    assert ends == [ends[-1]] * killed
    assert not any(path.endswith(f"{NAMES[0]}.parquet") for path in ends[0][0])


FULL = """
import resource, signal, sys
from pathlib import Path
from tasks.retain.retain import retain
from tasks.retain.rule import Rule
from tasks.storage.store import Store

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
found = retain(Store(Path(sys.argv[1])), Rule(batches_for_ns=0), lambda: 2**62, lambda: 0, None)
print(len(found.removed), {each.wrong for each in found.kept}, *{"removed.json" in each.reason for each in found.kept})
"""


def test_a_full_disk_keeps_what_it_cannot_record(store: Store, closed: Path) -> None:
    """If the disk is full at the first byte of a removal's record or later in it, nothing is removed or changed."""
    before = files(store)
    for limit in (0, 100):
        run = subprocess.run(
            [sys.executable, "-c", FULL, str(store.root), str(limit)], capture_output=True, text=True, check=True
        )
        assert run.stdout == "0 {True} True\n"
        left = files(store)
        assert {path: text for path, text in left.items() if ".tmp" not in path} == before


def test_two_at_once(store: Store, closed: Path, bucket: Bucket) -> None:
    """Two concurrent runs remove each file once, and neither reports a fault."""
    send(store, bucket, DATE)
    found: list[Retained] = []
    start = threading.Barrier(2)

    def run() -> None:
        start.wait()
        rule = Rule(batches_for_ns=0, local_for_ns=0)
        found.append(retain(store, rule, lambda: 2**62, lambda: 0, remote_of(bucket)))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.kept for each in found] == [(), ()]
    assert len([gone.file for each in found for gone in each.removed]) == 4
    assert not list(store.root.rglob("*.parquet"))
