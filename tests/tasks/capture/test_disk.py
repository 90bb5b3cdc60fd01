"""A failing disk or system ends the session with an error; what was written is usable, the rest is in a gap."""

import errno
import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from faults import Connection, FaultServer, Send, Stall, StartServer, Step, Subscribed
from recording import (
    Answered,
    Row,
    StartSession,
    ask,
    assert_counts_agree,
    assert_in_order,
    sealed_rows,
    trades,
    wait_for,
)

from tasks.capture.recovery import ROOM_FILE, close_killed
from tasks.capture.supervise import LOG_FILE, Recorder, start_or_attach
from tasks.errors import TransientError
from tasks.records.ledger import SessionRecord
from tasks.records.manifest import Seal, read
from tasks.records.trade import NS_PER_S, Trade
from tasks.storage.store import Store


def bulky(count: int, first: int, kilobytes: int = 2) -> list[Trade]:
    """Trades that fill a disk: long conditions, and three symbols in turn."""
    padding = "x" * (kilobytes << 10)
    return [replace(trade, conditions=(padding,)) for trade in trades(count, first, "ABC")]


@dataclass(frozen=True, slots=True)
class Flood:
    """A step: send bulky trades until the client is gone or so many messages were sent."""

    messages: int = 10_000

    def run(self, connection: Connection) -> None:
        for number in range(self.messages):
            Send(bulky(50, 50 * number)).run(connection)


def assert_failed_honestly(
    store: Store, record: SessionRecord, server: FaultServer, error: str, where: str = ""
) -> list[Row]:
    """Assert that the rows are what was sent up to one point; error, gap, and counts cover the rest."""
    assert record.outcome == "failed"
    assert error in (record.error or "")
    assert where in (record.error or "")
    assert "make room or repair the disk, then run `tape archive`" in (record.error or "")
    return assert_usable(store, record, server)


def assert_usable(store: Store, record: SessionRecord, server: FaultServer) -> list[Row]:
    rows = sealed_rows(store, record.session)
    assert_in_order(rows)
    assert [row.trade for row in rows] == server.sent[: len(rows)]
    assert_counts_agree(store, record)
    gap = record.gaps[-1]
    assert (gap.symbols, gap.end_ns) == (record.symbols, record.deadline_ns)
    assert max((row.ts_recv_ns for row in rows), default=record.started_ns) <= gap.start_ns < record.deadline_ns
    assert not (store.spool / record.session).exists()
    assert not (store.sessions / record.session / ROOM_FILE).exists()
    return rows


@dataclass
class Refusal:
    """Make a system call fail for files whose names end in `suffix`, after `good` calls; `once`, or always."""

    suffix: str
    number: int
    good: int = 0
    once: bool = False
    torn: bool = False
    failed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fails(self, descriptor: int) -> bool:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        with self.lock:
            if not path.endswith(self.suffix) or (self.once and self.failed):
                return False
            self.good -= 1
            self.failed += self.good < 0
            return self.good < 0

    def of(self, call: Callable[..., int | None]) -> Callable[..., int | None]:
        def refusing(descriptor: int, *content: bytes) -> int | None:
            if self.fails(descriptor):
                if self.torn and self.failed == 1:
                    return call(descriptor, content[0][: len(content[0]) // 2])
                raise OSError(self.number, os.strerror(self.number))
            return call(descriptor, *content)

        return refusing


REFUSALS = {
    "a row cannot be written": ("write", Refusal(".csv.open", errno.EIO, good=2)),
    "a row is written by half": ("write", Refusal(".csv.open", errno.EIO, good=2, torn=True)),
    "not even the header can be written": ("write", Refusal(".csv.open", errno.ENOSPC)),
    "a checksum cannot be written": ("write", Refusal(".sums", errno.EIO, good=3)),
    "a checksum is written by half": ("write", Refusal(".sums", errno.ENOSPC, good=3, torn=True)),
    "a refused frame cannot be written": ("write", Refusal(".frames.jsonl.open", errno.EROFS)),
    "a refused frame is written by half": ("write", Refusal(".frames.jsonl.open", errno.EDQUOT, torn=True)),
    "rows cannot be synced": ("fdatasync", Refusal(".csv.open", errno.EIO)),
    "checksums cannot be synced": ("fdatasync", Refusal(".sums", errno.EIO)),
    "a seal cannot be synced": ("fsync", Refusal(".seal.json.tmp", errno.EIO, once=True)),
    "a folder cannot be synced": ("fsync", Refusal("/sealed", errno.EIO, once=True)),
}


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("what", REFUSALS)
def test_a_refused_write_or_sync_ends_the_session_and_costs_no_row_that_was_written(
    store: Store, fault_server: StartServer, session: StartSession, monkeypatch: pytest.MonkeyPatch, what: str,
    lanes: int,
) -> None:  # fmt: skip
    """For EIO, ENOSPC, EROFS, and EDQUOT at any point the error names the file, and everything before is sealed."""
    call, refusal = REFUSALS[what]
    refusal = replace(refusal, lock=threading.Lock(), good=refusal.good * lanes)
    monkeypatch.setattr(os, call, refusal.of(getattr(os, call)))
    steps: list[Step] = []
    for number in range(12):
        steps += [Send(trades(6, 6 * number, "ABC")), Answered(b"%d" % number)]
    steps.append(Send([Trade(1, "", "1", "1")]))  # Without a symbol it cannot be a row.
    server = fault_server([Subscribed("A", "B", "C"), *steps, Stall(threading.Event())])
    recording = session(server.url, "ABC", lanes=lanes, batch_for_ns=(300 if call == "write" else 1) * NS_PER_S // 2)
    record = recording.record()
    assert refusal.failed
    rows = sealed_rows(store, record.session)
    assert record.outcome == "failed"
    assert os.strerror(refusal.number) in (record.error or "")
    assert refusal.suffix.removesuffix(".tmp") in (record.error or "")
    if lanes == 1:
        assert_failed_honestly(store, record, server, "writing failed: ")
    else:  # Each lane for itself is sealed up to some place.
        assert_counts_agree(store, record)
        assert record.gaps[-1].end_ns == record.deadline_ns
        for symbol in "ABC":
            mine = [row.trade for row in rows if row.trade.symbol == symbol]
            assert mine == [trade for trade in server.sent if trade.symbol == symbol][: len(mine)]
    if call != "write":
        assert [row.trade for row in rows] == [trade for trade in server.sent if trade.symbol]
        assert record.frames_lost <= 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted disk of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount a disk here: run as root, outside of a container without CAP_SYS_ADMIN")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_full_disk_ends_the_session_with_its_record_and_all_that_was_written(
    small_disk: Path, fault_server: StartServer, session: StartSession, lanes: int
) -> None:
    """ENOSPC of a real disk: rows before it are sealed, and there is still room for the gap and the record."""
    store = Store(small_disk / "data")
    server = fault_server([Subscribed("A", "B", "C"), Flood()])
    recording = session(server.url, "ABC", root=store.root, lanes=lanes, batch_bytes=6 << 20)
    record = recording.record()
    rows = sealed_rows(store, record.session)
    assert sum(path.stat().st_size for path in store.sealed.glob("*.csv")) > 8 << 20
    assert os.strerror(errno.ENOSPC) in (record.error or "")
    assert str(small_disk) in (record.error or "")
    assert record.frames_lost > 0
    assert_counts_agree(store, record)
    assert record.gaps[-1].end_ns == record.deadline_ns
    for symbol in "ABC":
        mine = [row.trade for row in rows if row.trade.symbol == symbol]
        assert mine == [trade for trade in server.sent if trade.symbol == symbol][: len(mine)]
    if lanes == 1:
        assert_failed_honestly(store, record, server, "writing failed: ")


def test_a_disk_that_turns_read_only_ends_the_session_and_its_end_is_written_once_it_can_be(
    small_disk: Path, fault_server: StartServer, session: StartSession
) -> None:
    """If not even the record can be written, the next start writes it, with the gap to the deadline."""
    store = Store(small_disk / "data")
    more = threading.Event()
    server = fault_server(
        [Subscribed("A"), Send(trades(5)), Answered(), Stall(more), Send(trades(5, 5)), Answered(b"more")]
    )
    recording = session(server.url, root=store.root, batch_for_ns=NS_PER_S // 20)
    recording.when(lambda status: status.batches_sealed == 1)
    remount(small_disk, "ro")
    more.set()
    recording.join()
    assert isinstance(recording.error, OSError)
    assert recording.error.errno == errno.EROFS
    assert str(small_disk) in str(recording.error)
    remount(small_disk, "rw")
    record = close_killed(store, recording.request.session, time.time_ns())
    assert record.outcome == "killed"
    assert len(assert_usable(store, record, server)) == 5


def remount(disk: Path, how: str) -> None:
    """Make a disk read-only or writable again; it is busy while a file is open for writing."""
    command = ["mount", "-o", f"remount,{how}", disk]
    wait_for(lambda: subprocess.run(command, check=False, capture_output=True).returncode == 0)


@pytest.fixture
def recorder(store: Store) -> Iterator[Callable[..., Recorder]]:
    """Start recorders as processes; kill what a failing test leaves behind."""
    started: list[Recorder] = []

    def start(url: str) -> Recorder:
        started.append(start_or_attach(ask(store.root, url, "ABC"), "a-very-secret-key"))
        return started[-1]

    yield start
    for each in started:
        if each.is_alive and (status := each.status()):
            os.kill(status.pid, 9)
            wait_for(lambda each=each: not each.is_alive)


def limited(recorder: Recorder, what: int, limit: int) -> None:
    """Set a resource limit of a running recorder."""
    status = wait_for(lambda: (status := recorder.status()) and status.state == "recording" and status)
    resource.prlimit(status.pid, what, (limit, limit))


def test_a_file_that_may_not_grow_ends_the_session(
    store: Store, fault_server: StartServer, recorder: Callable[..., Recorder]
) -> None:
    """A file size limit hit in the middle of a write: the torn rest is cut, the record is written."""
    begin = threading.Event()
    server = fault_server([Subscribed("A", "B", "C"), Stall(begin), Flood()])
    running = recorder(server.url)
    limited(running, resource.RLIMIT_FSIZE, 1_000_003)
    begin.set()
    list(running.sealed())
    record = running.record()
    rows = assert_failed_honestly(store, record, server, os.strerror(errno.EFBIG), ".csv.open: ")
    assert rows
    seals = [read(store.sealed / name.seal, Seal) for name in store.sealed_batches()]
    assert sum(seal.bytes + seal.cut_bytes for seal in seals) == 1_000_003
    assert record.frames_lost > 0


def test_a_process_without_file_descriptors_ends_the_session(
    store: Store, fault_server: StartServer, recorder: Callable[..., Recorder]
) -> None:
    """With no file descriptors left the session fails, or dies and is recovered, and nothing written is lost."""
    begin = threading.Event()
    server = fault_server(
        [Subscribed("A", "B", "C"), Send(trades(9, 0, "ABC")), Answered(), Stall(begin), Send(trades(9, 9, "ABC")),
         Answered(b"more")]
    )  # fmt: skip
    running = recorder(server.url)
    wait_for(lambda: (status := running.status()) and status.trades == 9)
    limited(running, resource.RLIMIT_NOFILE, 3)
    begin.set()
    list(running.sealed())
    try:
        record = running.record()
        assert record.outcome == "failed"
        assert os.strerror(errno.EMFILE) in (record.error or "")
    except TransientError:
        assert os.strerror(errno.EMFILE) in (running.request.folder / LOG_FILE).read_text()
        record = close_killed(store, running.request.session, time.time_ns())
    assert len(assert_usable(store, record, server)) >= 9
