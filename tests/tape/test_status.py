"""`tape status` and `tape watch`: running sessions, whoever started them, on a real terminal and without one."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import archive_sealed
from faults import FaultServer, Send, Subscribed
from recording import Answered, ask, trades, wait_for

from tape.live import batches_of
from tasks.capture.supervise import Recorder, start_or_attach
from tasks.compress.parquet import compress
from tasks.records.names import BatchName
from tasks.records.status import Status
from tasks.storage.store import Store
from tasks.validate.schema import Limits
from tasks.validate.split import split

SESSION = "20261124T143000Z-9f3c01ab"
LINE = b"1,1,1795530600007000001,1795530600000000000,A,1.5,1,\n"
TAPE = str(Path(sys.executable).with_name("tape"))


@pytest.fixture
def recorder(store: Store, fault_server: Callable[..., FaultServer]) -> Iterator[Recorder]:
    """A recorder, a process of its own, that has recorded nine trades of A, and none of B."""
    server = fault_server([Subscribed("A", "B"), Send(trades(9)), Answered()])
    it = start_or_attach(ask(store.root, server.url, ("A", "B")), "a-very-secret-key")
    wait_for(lambda: (status := it.status()) and status.per_symbol.get("A") == 9)
    pid = status_of(it).pid
    yield it
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    it.stop()
    wait_for(lambda: not it.is_alive)


def status_of(recorder: Recorder) -> Status:
    status = recorder.status()
    assert status is not None
    return status


def tape(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([TAPE, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def test_a_running_session_is_shown_once(recorder: Recorder, store: Store) -> None:
    """Its state, trades and time left, as text and as JSON, though another process started it."""
    shown = tape("status", "--data-dir", str(store.root))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "recording" in shown.stdout
    assert "9 trades of 1 of 2 symbols" in shown.stdout
    (found,) = json.loads(tape("status", "--json", "--data-dir", str(store.root)).stdout)["sessions"]
    assert (found["trades"], found["state"], found["stale"]) == (9, "recording", False)
    assert found["batches"] == {"sealed": 0, "validated": 0, "archived": 0}


def test_batches_are_counted_by_stage_for_the_session_alone(
    store: Store, sealed_batch: Callable[..., BatchName]
) -> None:
    """Sealed, validated, and archived batches of the session, none of any other session."""
    other = "20261124T143000Z-00c0ffee"
    for number in range(4):
        sealed_batch([LINE], name=BatchName(SESSION, 0, number))
    sealed_batch([LINE], name=BatchName(other, 0, 0))
    for number in range(3):
        split(store, BatchName(SESSION, 0, number), Limits(None, None))
    for name in (BatchName(SESSION, 0, 0), BatchName(SESSION, 0, 1)):
        compress(store, name)
    archive_sealed(store, BatchName(other, 0, 0))
    assert batches_of(store, SESSION) == (1, 1, 2)


@pytest.mark.slow
def test_a_recorder_that_does_not_report_is_stale(recorder: Recorder, store: Store) -> None:
    """A stopped process keeps its lock, but not its word: the exit status says so, and back again."""
    os.kill(status_of(recorder).pid, signal.SIGSTOP)
    wait_for(lambda: time.time_ns() - status_of(recorder).updated_ns > 6 * 10**9)
    shown = tape("status", "--data-dir", str(store.root))
    assert shown.returncode == 1
    assert "has not reported" in shown.stdout
    os.kill(status_of(recorder).pid, signal.SIGCONT)
    wait_for(lambda: time.time_ns() - status_of(recorder).updated_ns < 2 * 10**9)
    assert tape("status", "--data-dir", str(store.root)).returncode == 0


def test_nothing_recorded_is_exit_1(store: Store) -> None:
    """Without a running session there is one line, and a script sees it."""
    shown = tape("status", "--data-dir", str(store.root))
    assert shown.returncode == 1
    assert "no session is being recorded" in shown.stdout
    assert tape("watch", "--data-dir", str(store.root)).returncode == 1


def test_a_session_is_watched_in_a_terminal(recorder: Recorder, store: Store) -> None:
    """The live view of another process's recording; Ctrl-C ends the view alone, and the recorder records on."""
    pid, master = pty.fork()
    if not pid:
        os.execv(TAPE, [TAPE, "watch", "--data-dir", str(store.root)])
    shown = _read_until(master, b"batches so far")
    assert status_of(recorder).session.encode() in shown
    os.write(master, b"\x03")
    shown = _read_until(master, b"is still being recorded")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"Traceback" not in shown
    assert status_of(recorder).state == "recording"


def test_watching_ends_with_the_session(recorder: Recorder, store: Store) -> None:
    """Without a terminal there are plain lines, until the session has ended."""
    watching = subprocess.Popen(
        [TAPE, "watch", "--data-dir", str(store.root)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert watching.stderr is not None
    assert "9 trades" in watching.stderr.readline()
    recorder.stop()
    assert "has ended" in watching.stderr.read()
    assert watching.wait(30) == 0


def _read_until(master: int, text: bytes) -> bytes:
    shown, end_s = b"", time.monotonic() + 30
    while text not in shown:
        assert time.monotonic() < end_s, shown
        if select.select([master], [], [], 0.2)[0]:
            shown += os.read(master, 65_536)
    return shown
