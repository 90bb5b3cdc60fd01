"""What is known of a running session equals its record after the end."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest
from faults import Drop, FaultServer, Send, Stall, Subscribed
from recording import FIN, Recording, ask, trades

from tasks.capture.supervise import change_symbols
from tasks.errors import CorruptionError
from tasks.records.sessions import NOT_CLOSED, record_of
from tasks.storage.locks import SESSION_LOCK, Lock, acquire
from tasks.storage.store import Store


@pytest.fixture
def recording(store: Store, fault_server: Callable[..., FaultServer]) -> Iterator[Recording]:
    """A session of A and B with a lost connection, to which C was added."""
    over = threading.Event()
    server = fault_server(
        [Subscribed("A", "B"), Send(trades(3)), Drop()],
        [Subscribed("A", "B"), Send(trades(2, 3, ("B",))), Subscribed("C"), Stall(over)],
    )
    it = Recording(ask(store.root, server.url, ("A", "B")))
    it.when(lambda status: status.per_symbol.get("B") == 2)
    change_symbols(it.request.folder, lambda now: (*now, "C"))
    yield it
    over.set()
    it.session.stop()
    it.join()


@pytest.fixture
def lock(recording: Recording) -> Iterator[Lock]:
    """The recorder's own lock, which a recorder in a thread does not take."""
    lock = acquire(recording.request.folder / SESSION_LOCK)
    assert lock is not None
    yield lock
    lock.release()


def facts(record: Any, *but: str) -> dict[str, Any]:
    return {each.name: getattr(record, each.name) for each in fields(record) if each.name not in but}


def test_a_session_that_records_is_known_by_what_lies_beside_it(recording: Recording, lock: Lock) -> None:
    """Symbols, changes, gaps, requests, and connections so far equal those of the final record."""
    so_far = record_of(recording.request.folder)
    assert so_far is not None
    assert (so_far.outcome, so_far.error, so_far.never_heard) == ("recording", None, ("C",))
    assert [gap.reason for gap in so_far.gaps] == [FIN]
    in_the_end = recording.end()
    open_yet = ("outcome", "ended_ns", "frames_received", "batches")
    assert facts(so_far, *open_yet) == facts(in_the_end, *open_yet)
    assert record_of(recording.request.folder) == in_the_end


def test_one_whose_recorder_is_gone_says_what_to_do(recording: Recording) -> None:
    """A session without a recorder or record is killed and waits to be closed."""
    gone = record_of(recording.request.folder)
    assert gone is not None
    assert (gone.outcome, gone.error) == ("killed", NOT_CLOSED)


def test_a_folder_that_is_no_session_has_no_record(store: Store) -> None:
    """An empty folder gives no record; a damaged request raises an error that names its file."""
    folder = store.sessions / "20260102T150405Z-00c0ffee"
    folder.mkdir()
    assert record_of(folder) is None
    (folder / "request.json").write_text("{")
    with pytest.raises(CorruptionError, match=r"request\.json"):
        record_of(folder)
