"""What a recorder could neither seal nor record is sealed and recorded by the next start, which says what happened."""

import errno
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from faults import Mute, Send, Stall, StartServer, Subscribed
from recording import (
    Answered,
    Stamp,
    StartSession,
    ask,
    assert_counts_agree,
    assert_in_order,
    sealed_rows,
    trades,
    wait_for,
)

from tasks.capture.recovery import KILLED, WENT_DOWN, close_killed, killed_sessions
from tasks.capture.supervise import start_or_attach
from tasks.records.status import read_status, write_status
from tasks.records.trade import NS_PER_S
from tasks.storage.store import Store


def fail(monkeypatch: pytest.MonkeyPatch, call: str, suffix: str, good: int = 0) -> None:
    """Make a system call fail on files whose names end in that suffix, after so many good calls."""
    real, left = getattr(os, call), [good]

    def failing(descriptor: int, *content: bytes) -> object:
        if str(Path(f"/proc/self/fd/{descriptor}").readlink()).endswith(suffix):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO), suffix)
        return real(descriptor, *content)

    monkeypatch.setattr(os, call, failing)


def test_a_failure_whose_record_cannot_be_written_is_recorded_by_the_next_start(
    store: Store, fault_server: StartServer, session: StartSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the journal nor its seal can be written: the record written later names the failure, not a kill."""
    fail(monkeypatch, "write", ".csv.open", good=4)
    fail(monkeypatch, "fsync", ".seal.json.tmp")
    server = fault_server([Subscribed("A"), *(Send(trades(5, 5 * n), pause_s=0.005) for n in range(2000))])
    recording = session(server.url)
    recording.join()
    assert isinstance(recording.error, OSError)
    status = read_status(recording.request.folder)
    assert status is not None
    assert "Input/output error" in (status.error or "")
    monkeypatch.undo()
    assert killed_sessions(store) == [recording.request.session]
    record = close_killed(store, recording.request.session, time.time_ns())
    assert (record.outcome, record.error, record.connections) == ("failed", status.error, 1)
    assert record.frames_lost > 0
    rows = sealed_rows(store, record.session)
    assert rows
    assert [row.trade for row in rows] == server.sent[: len(rows)]
    assert_in_order(rows)
    assert_counts_agree(store, record)
    (gap,) = record.gaps
    assert (gap.reason, gap.end_ns) == (record.error, record.deadline_ns)
    assert gap.start_ns >= rows[-1].ts_recv_ns


def test_what_a_recovery_seals_is_on_the_disk_first(
    store: Store, fault_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed recorder had not synced its last second: recovery does so before a seal vouches for it."""
    server = fault_server([Subscribed("A"), Send(trades(2000)), Answered()])
    recorder = start_or_attach(ask(store.root, server.url), "a-very-secret-key")
    status = wait_for(lambda: (status := recorder.status()) and status.trades == 2000 and status)
    os.kill(status.pid, signal.SIGKILL)
    wait_for(lambda: not recorder.is_alive)
    synced: list[str] = []
    real = os.fsync

    def noting(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    close_killed(store, recorder.request.session, time.time_ns())
    of_batch = [name.partition("-0-000000")[2] for name in synced if "-0-000000" in name]
    assert of_batch == [".csv.open", ".frames.jsonl.open", ".seal.json.tmp"]
    assert len(sealed_rows(store, recorder.request.session)) == 2000


def test_a_kill_before_a_half_open_connection_is_found_has_its_gap_from_the_last_bytes(
    store: Store, fault_server: StartServer
) -> None:
    """The feed is mute, a ping is out, the recorder is killed: the gap begins at the last bytes received."""
    muted_ns, over = list[int](), threading.Event()
    server = fault_server([Subscribed("A"), Send(trades(5)), Answered(), Stamp(muted_ns), Mute(over)])
    recorder = start_or_attach(ask(store.root, server.url, ping_every_s=3.0), "a-very-secret-key")
    status = wait_for(lambda: muted_ns and recorder.status())
    later_ns = muted_ns[0] + int(4.5 * NS_PER_S)  # One ping is out, and its answer not yet late.
    wait_for(lambda: (status := recorder.status()) and status.trades == 5 and status.updated_ns > later_ns)
    os.kill(status.pid, signal.SIGKILL)
    wait_for(lambda: not recorder.is_alive)
    over.set()
    record = close_killed(store, recorder.request.session, time.time_ns())
    (gap,) = record.gaps
    assert gap.reason == KILLED
    assert sealed_rows(store, record.session)[-1].ts_recv_ns <= gap.start_ns <= muted_ns[0]


def test_a_gap_begins_where_the_disk_was_when_the_machine_went_down(
    store: Store, fault_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power loss the status may count rows that never reached the disk: the gap begins before them."""
    heard, more = threading.Event(), threading.Event()
    server = fault_server(
        [Subscribed("A"), Send(trades(5)), Answered(), Stall(heard), Send(trades(5, 5)), Answered(), Stall(more)]
    )
    recorder = start_or_attach(ask(store.root, server.url), "a-very-secret-key")
    first = wait_for(lambda: (status := recorder.status()) and status.trades == 5 and status)
    status = wait_for(lambda: (status := recorder.status()) and status.durable_ns >= first.through_ns and status)
    (journal,) = store.spool.rglob("*.csv.open")
    (sums,) = store.spool.rglob("*.sums")
    on_disk = {path: path.read_bytes() for path in (journal, sums)}
    heard.set()
    status = wait_for(lambda: (status := recorder.status()) and status.trades == 10 and status)
    os.kill(status.pid, signal.SIGKILL)
    wait_for(lambda: not recorder.is_alive)
    more.set()
    for path, content in on_disk.items():
        path.write_bytes(content)
    # What was synced in the meantime is not known to be on this disk.
    kept = replace(status, durable_ns=first.through_ns, boot="another")
    write_status(recorder.request.folder, kept)
    record = close_killed(store, recorder.request.session, time.time_ns())
    rows = sealed_rows(store, record.session)
    assert [row.trade for row in rows] == server.sent[:5]
    (gap,) = record.gaps
    assert gap.reason == WENT_DOWN
    assert rows[-1].ts_recv_ns <= gap.start_ns < status.through_ns
    assert gap.start_ns == max(first.through_ns, rows[-1].ts_recv_ns)


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_gap_begins_after_what_was_sealed_whatever_the_status_says(
    store: Store, fault_server: StartServer, session: StartSession, lanes: int
) -> None:
    """Killed between two journals, after the last status: the gap begins where the sealed batches end."""
    server = fault_server([Subscribed("A", "B"), Send(trades(8, 0, "AB")), Answered()])
    recording = session(server.url, "AB", lanes=lanes)
    recording.when(lambda status: status.trades == 8)
    recording.end()
    folder = recording.request.folder
    status = read_status(folder)
    assert status is not None
    write_status(folder, replace(status, through_ns=recording.request.started_ns + 1))
    (folder / "session.json").unlink()
    record = close_killed(store, recording.request.session, time.time_ns())
    (gap,) = record.gaps
    assert gap.start_ns == sealed_rows(store, record.session)[-1].ts_recv_ns
