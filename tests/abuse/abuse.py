"""Measures what each attack costs, and checks that the recorder ends in order with every law intact.

    python tests/abuse/abuse.py [--seconds 20] [attack ...]

Each feed below is a server on loopback that does one hostile thing for so many seconds to a recorder of its own, a
process like any other. What it took of memory (peak of resident pages) and of disk is printed as a table, beside the
most that is allowed; exit status 1 where one took more, did not end in time, or left a ledger that does not balance.
The attacks by files have no feed: what they would have a reader hold in memory is measured in a process of its own.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from faults import CONTINUATION, TEXT, Connection, Drop, FaultServer, Frame, Subscribed
from recording import ask

from tasks.capture.supervise import start_or_attach
from tasks.compress.parquet import compress
from tasks.errors import TransientError
from tasks.records.status import read_status
from tasks.records.trade import NS_PER_S
from tasks.storage.store import Store
from tasks.validate.schema import Limits
from tasks.validate.split import split
from tasks.verify.account import ledger_for
from tasks.verify.laws import verify

MIB = 1 << 20
# A recorder at rest has 60 MB; its queue may hold 64 MiB, once as bytes and once as what they say.
MOST_MEMORY_MB = 400
_QUARANTINE_BYTES = 8 * MIB
# A ceiling for a hang. After its deadline a recorder still reads a full queue: 64 MiB of the smallest messages are two
# million of them, which took 3 s of CPU, and more than 20 s beside other tests on two cores.
_LEAVES_WITHIN_S = 60.0
_BLOCK_FRAMES = 2_000


@dataclass(frozen=True, slots=True)
class Flood:
    """Writes the blocks of `blocks`, one after the other, until the client or server ends."""

    blocks: Callable[[], Iterator[bytes]]

    def run(self, connection: Connection) -> None:
        for block in self.blocks():
            connection.write(block)


def frames(payload: bytes) -> Callable[[], Iterator[bytes]]:
    """The same message forever."""
    block = bytes(Frame(TEXT, payload)) * _BLOCK_FRAMES

    def blocks() -> Iterator[bytes]:
        while True:
            yield block

    return blocks


def fragments(payload: bytes) -> Callable[[], Iterator[bytes]]:
    """One endless message, in fragments of this payload."""

    def blocks() -> Iterator[bytes]:
        yield bytes(Frame(TEXT, b"{", fin=False))
        block = bytes(Frame(CONTINUATION, payload, fin=False)) * _BLOCK_FRAMES
        while True:
            yield block

    return blocks


def invented() -> Iterator[bytes]:
    """Trades of unsubscribed symbols, each with its own symbol."""
    for number in count():
        said = b"".join(
            bytes(Frame(TEXT, b'{"type":"trade","data":[{"s":"X%d-%d","p":1,"t":1764000000000,"v":1}]}' % (number, n)))
            for n in range(200)
        )
        yield said


MANY = tuple(f"S{number}" for number in range(50))
FEEDS: dict[str, tuple[tuple[str, ...], list[object]]] = {
    "fragments without content": (("A",), [Subscribed("A"), Flood(fragments(b""))]),
    "fragments of two bytes": (("A",), [Subscribed("A"), Flood(fragments(b"ab"))]),
    "garbage": (("A",), [Subscribed("A"), Flood(frames(b"x" * 1_000))]),
    "tiny errors": (("A",), [Subscribed("A"), Flood(frames(b'{"type":"error","msg":"x"}'))]),
    "invented symbols": (("A",), [Subscribed("A"), Flood(invented)]),
    "a connection dropped again and again": (MANY, [Subscribed(*MANY), Drop()]),
    "trades that never stop": (
        ("A",), [Subscribed("A"), Flood(frames(b'{"type":"trade","data":[{"s":"A","p":1.5,"t":17640000000,"v":1}]}'))],
    ),
}  # fmt: skip

FILES = {
    "a Parquet group of 50 million rows in a file of a few KB": """
import pyarrow as pa, pyarrow.parquet as pq, sys
from pathlib import Path
from tasks.archive.schema import SCHEMA
from tasks.errors import CorruptionError
from tasks.archive.encodings import read_groups
path = Path(sys.argv[1]) / "x.parquet"
if not path.exists():
    values = {pa.bool_(): False, pa.large_string(): "1"}
    columns = [pa.repeat(pa.scalar(values.get(each.type, 1), each.type), 50_000_000) for each in SCHEMA]
    pq.write_table(pa.table(columns, schema=SCHEMA), path, row_group_size=50_000_000)
    sys.exit(0)
try:
    next(read_groups(path))
except CorruptionError as error:
    print(error)
else:
    raise SystemExit("it was read")
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
""",
    "a record of 400 MB": """
import sys
from pathlib import Path
from tasks.errors import CorruptionError
from tasks.records.manifest import Day, read
path = Path(sys.argv[1]) / "_2026-11-24.day.json"
if not path.exists():
    with path.open("wb") as file:
        file.truncate(400 << 20)
    sys.exit(0)
try:
    read(path, Day)
except CorruptionError as error:
    print(error)
else:
    raise SystemExit("it was read")
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
""",
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What one attack used, and what was wrong at the end, or None."""

    memory_mb: float
    disk_mb: float
    seconds: float
    wrong: str | None


def feed_attack(name: str, seconds: float, root: Path) -> Cost:
    """Let a recorder receive this feed for some seconds."""
    symbols, steps = FEEDS[name]
    server = FaultServer(then=steps)  # type: ignore[list-item]
    with server:
        now_ns = time.time_ns()
        request = ask(
            root, server.url, symbols, deadline_ns=now_ns + int(seconds * NS_PER_S), quarantine_bytes=_QUARANTINE_BYTES,
            disk_reserve_bytes=MIB, reconnect_within_s=0.01, batch_bytes=16 * MIB,
        )  # fmt: skip
        recorder = start_or_attach(request, "key")
        peak = Peak(request.folder)
        record = None
        end_s = time.monotonic() + seconds + _LEAVES_WITHIN_S
        while recorder.is_alive and time.monotonic() < end_s:
            time.sleep(0.1)
        with suppress(TransientError):
            record = None if recorder.is_alive else recorder.record()
        took_s, disk = (time.time_ns() - now_ns) / NS_PER_S, size_of(root)
        memory = peak.stop()
        if record is None:
            recorder.stop()
            return Cost(memory, disk, took_s, "the session did not end in time")
    store = Store(root)
    for batch in store.sealed_batches():
        split(store, batch, Limits(None, None))
        compress(store, batch)
    verdict, ledger = verify(store), ledger_for(store, request.session)
    wrong = [f"{each.law}: {each.message}" for each in verdict.broken] + list(ledger.imbalances())
    if record.outcome != "complete":
        wrong.append(f"the session {record.outcome}: {record.error}")
    return Cost(memory, disk, took_s, wrong[0] if wrong else None)


class Peak(threading.Thread):
    """Watches the peak memory of a recorder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder, self._over, self._kb = folder, threading.Event(), 0
        self.start()

    def run(self) -> None:
        while not self._over.wait(0.1):
            status = read_status(self._folder)
            try:
                lines = Path(f"/proc/{status.pid}/status").read_text().splitlines() if status else []
            except OSError:
                continue
            self._kb = max([self._kb, *(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))])

    def stop(self) -> float:
        self._over.set()
        self.join()
        return self._kb / 1024


def file_attack(name: str, root: Path) -> Cost:
    """Make a file and let a process read it."""
    program = ["-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n{FILES[name]}", str(root)]
    subprocess.run([sys.executable, *program], check=True)
    began_s = time.monotonic()
    read = subprocess.run([sys.executable, *program], capture_output=True, text=True, check=False)
    said = read.stdout.splitlines()
    is_refused = read.returncode == 0 and len(said) == 2
    memory = int(said[1]) / 1024 if is_refused else 0.0
    wrong = None if is_refused else " ".join((read.stdout + read.stderr).split())[-200:]
    return Cost(memory, 0.0, time.monotonic() - began_s, wrong)


def size_of(root: Path) -> float:
    """Return the MB of files below a folder."""
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) / MIB


def allowed_disk_mb(name: str, seconds: float) -> float:
    """Trades are recorded, even invented ones; anything else is limited to the quarantine's space plus a little."""
    is_trades = name in ("invented symbols", "trades that never stop")
    return 60.0 * seconds if is_trades else 3 * _QUARANTINE_BYTES / MIB + 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("attacks", nargs="*", default=[])
    asked = parser.parse_args()
    print("| attack | peak memory, MB | disk, MB | seconds | |\n| --- | ---: | ---: | ---: | --- |")
    failed = False
    for name in asked.attacks or [*FEEDS, *FILES]:
        root = Path(tempfile.mkdtemp(prefix="tape-abuse-"))
        try:
            cost = feed_attack(name, asked.seconds, root) if name in FEEDS else file_attack(name, root)
        finally:
            shutil.rmtree(root, ignore_errors=True)
        wrong = cost.wrong
        if wrong is None and cost.memory_mb > MOST_MEMORY_MB:
            wrong = f"more than {MOST_MEMORY_MB} MB of memory"
        if wrong is None and cost.disk_mb > allowed_disk_mb(name, asked.seconds):
            wrong = f"more than {allowed_disk_mb(name, asked.seconds):.0f} MB of disk"
        failed = failed or wrong is not None
        print(
            f"| {name} | {cost.memory_mb:.0f} | {cost.disk_mb:.1f} | {cost.seconds:.1f} | {wrong or 'held'} |",
            flush=True,
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
