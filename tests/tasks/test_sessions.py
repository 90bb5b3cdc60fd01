"""What is known of a session while it records is what its record says once it has ended."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
from faults import Drop, FaultServer, Send, Stall, Subscribed
from recording import FIN, Recording, ask, trades

from tasks.capture.recovery import close_killed
from tasks.capture.watchlist import want
from tasks.coverage import coverage, requests_of_record
from tasks.errors import CorruptionError
from tasks.ledger import Request
from tasks.locks import SESSION_LOCK, Lock, take
from tasks.requests import join
from tasks.sessions import NOT_CLOSED, has_ended, records_of, session_record, sessions_here
from tasks.status import read_status, write_status
from tasks.store import Store


@pytest.fixture
def recording(store: Store, fault_server: Callable[..., FaultServer]) -> Iterator[Recording]:
    """A session of A and B that lost a connection after three trades of A, heard B on the next, and was given C."""
    over = threading.Event()
    server = fault_server(
        [Subscribed("A", "B"), Send(trades(3)), Drop()],
        [Subscribed("A", "B"), Send(trades(2, 3, ("B",))), Subscribed("C"), Stall(over)],
    )
    request = ask(store.root, server.url, ("A", "B"))
    it = Recording(request)
    it.when(lambda status: status.per_symbol.get("B") == 2)
    want(request.folder, lambda now: (*now, "C"), ("A", "B"))
    it.when(lambda status: status.symbols == ("A", "B", "C"))
    yield it
    over.set()
    it.session.stop()
    it.join()


@pytest.fixture
def lock(recording: Recording) -> Iterator[Lock]:
    """The recorder's own lock, which a recorder in a thread does not take."""
    lock = take(recording.request.folder / SESSION_LOCK)
    assert lock is not None
    yield lock
    lock.release()


def facts(record: Any, *but: str) -> dict[str, Any]:
    return {each.name: getattr(record, each.name) for each in fields(record) if each.name not in but}


def test_a_session_that_records_is_known_by_its_files(store: Store, recording: Recording, lock: Lock) -> None:
    """Symbols, changes, gaps, counts and requests so far are those of the record that it leaves."""
    request, name = recording.request, recording.request.session
    mine = Request(id="r", owner="o", symbols=("A",), start_ns=request.started_ns, until_ns=request.deadline_ns)
    assert join(request.folder, mine)
    so_far = session_record(store, name)
    assert so_far is not None
    assert (so_far.outcome, so_far.error, so_far.requests) == ("recording", None, (mine,))
    assert so_far.started_ns < (so_far.listening_ns or 0) < so_far.ended_ns < so_far.deadline_ns
    assert [gap.reason for gap in so_far.gaps] == [FIN]
    assert (sessions_here(store), has_ended(store, name)) == ([name], False)
    assert ([each.session for each in records_of(store)], list(records_of(store, "another"))) == ([name], [])
    covered, (gap,) = coverage([mine], [so_far]), so_far.gaps
    assert covered.asked_ns == so_far.ended_ns - mine.start_ns
    lost_ns = (so_far.listening_ns or 0) - mine.start_ns + (gap.end_ns or 0) - gap.start_ns
    assert covered.received_ns == covered.asked_ns - lost_ns
    record = recording.end()
    assert session_record(store, name) == record
    assert has_ended(store, name)
    but = ("outcome", "ended_ns", "batches", "frames_received", "requests")
    assert facts(so_far, *but) == facts(record, *but)
    assert (sum(so_far.batches), so_far.frames_received) <= (sum(record.batches), record.frames_received)


def test_a_session_whose_recorder_is_gone_says_so(store: Store, recording: Recording, lock: Lock) -> None:
    """Until somebody closes it the rest of its time is a gap, as it is afterwards."""
    folder, name = recording.request.folder, recording.request.session
    recording.end()
    status = read_status(folder)
    assert status is not None
    (folder / "session.json").unlink()
    write_status(folder, replace(status, state="recording"))
    lock.release()
    left = session_record(store, name)
    assert left is not None
    assert (left.outcome, left.error, left.ended_ns) == ("killed", NOT_CLOSED, left.deadline_ns)
    assert [gap.reason for gap in left.gaps] == [FIN, NOT_CLOSED]
    (store.spool / name).mkdir()
    closed = close_killed(store, name, status.updated_ns)
    asked = requests_of_record(closed)
    assert coverage(asked, [left]).received_ns == coverage(asked, [closed]).received_ns
    but = ("error", "gaps", "batches", "frames_received")
    assert facts(left, *but) == facts(closed, *but)


def test_what_is_no_session_is_unknown_and_a_damaged_file_is_named(store: Store, recording: Recording) -> None:
    """A folder without a request gives nothing; a file that cannot be read is an error with its name."""
    (store.sessions / "20261124T143000Z-9f3c01ab").mkdir()
    assert session_record(store, "20261124T143000Z-9f3c01ab") is None
    folder = recording.request.folder
    recording.end()
    (folder / "session.json").unlink()
    for file in ("status.json", "gaps.json", "watchlist.json", "request.json"):
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(whole[:-9])
        with pytest.raises(CorruptionError, match=file):
            session_record(store, folder.name)
        (folder / file).write_bytes(whole)
