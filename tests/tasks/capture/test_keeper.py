"""Nothing is reported durable before it is, and every journal is synced each second."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from calls import Call, Calls, recorded
from recording import wait_for

from tasks.capture.clock import Clock
from tasks.capture.gaps import GapBook
from tasks.capture.journal import Heading, Journal, Receipt, frames_open
from tasks.capture.keeper import JournalKeeper
from tasks.feeds.base import Rejected
from tasks.records.names import BatchName
from tasks.records.trade import NS_PER_S
from tasks.storage.store import Store

SESSION = "20260102T150405Z-00c0ffee"


@dataclass
class Kept:
    """A running keeper, its journals, and the calls made since it started."""

    store: Store
    heard_ns: int = 1
    failures: list[BaseException] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    keeper: JournalKeeper = field(init=False)
    calls: Calls = field(init=False)
    before: Callable[[Call], None] = lambda call: None

    def through_ns(self) -> int:
        """Return the time up to which all is written; note after how many calls it was requested."""
        self.asked.append(len(self.calls.all))
        return self.heard_ns

    def journal(self, number: int) -> Journal:
        name = BatchName(SESSION, 0, number)
        heading = Heading(
            batch=str(name), feed="finnhub", date="2026-01-02", symbols=("A",), lanes=1, opened_ns=7, before={}
        )
        journal = Journal(self.store.spool / SESSION, name, heading)
        self.keeper.watch(journal)
        return journal

    def paths(self, journal: Journal) -> list[Path]:
        """Return its three files, in the order in which they must be synced."""
        name = journal.name
        return [self.store.spool / SESSION / each for each in (name.journal, frames_open(name), name.sums)]


def write(journal: Journal, heard_ns: int) -> None:
    """Write a block of one row and one rejected frame."""
    seq = journal.rows + 1
    refused = [Rejected("frame", "not a message", b"{")]
    line = b"1,%d,%d,7,A,1.0,1,\n" % (seq, heard_ns)
    journal.append([
        Receipt(
            connection=1, ts_recv_ns=heard_ns, through_ns=heard_ns, block=line, symbols=["A"],
            first_seq=seq, last_seq=seq, received=2, trade=1, rejected=refused,
        )
    ])  # fmt: skip


@pytest.fixture
def kept(store: Store) -> Iterator[Kept]:
    """A keeper, not started yet, for an empty session; it syncs ten times a second."""
    folder = store.spool / SESSION
    folder.mkdir()
    it = Kept(store)
    gaps = GapBook(store.sessions / SESSION / "gaps.json")
    it.keeper = JournalKeeper(store, lambda: ("A",), gaps, Clock(), it.failures.append, it.through_ns, NS_PER_S // 10)
    with ExitStack() as stack:
        it.calls = stack.enter_context(recorded(lambda call: it.before(call)))
        yield it
        if it.keeper.is_alive():
            it.keeper.finish()
            it.keeper.join(20)
        assert not it.keeper.is_alive()


def test_all_three_files_of_every_journal_are_synced_before_the_time_moves(kept: Kept) -> None:
    """Each journal's rows, rejected frames, and sums are synced in that order, and only then is the time durable."""
    journals = [kept.journal(number) for number in range(3)]
    for journal in journals:
        write(journal, 50)
    kept.heard_ns, durable = 50, dict[Path, int]()

    def note(call: Call) -> None:
        if call.kind == "sync":
            durable.setdefault(call.path, kept.keeper.durable_ns)

    kept.before = note
    start = len(kept.calls.all)
    kept.keeper.start()
    wait_for(lambda: kept.keeper.durable_ns == 50)
    places = [[kept.calls.place("sync", path, start) for path in kept.paths(journal)] for journal in journals]
    assert all(each == sorted(each) for each in places)
    assert set(durable.values()) == {0}
    assert kept.failures == []


def test_the_names_of_new_files_are_synced_once(kept: Kept) -> None:
    """The first sync of a journal syncs the folder with its file names; later ones do not."""
    folder = kept.store.spool / SESSION
    journal = kept.journal(0)
    for _ in range(3):
        journal.sync()
    assert [call.path for call in kept.calls.all if call.kind == "sync"].count(folder) == 1
    assert kept.calls.place("sync", folder) < kept.calls.place("sync", kept.paths(journal)[0])
    assert kept.calls.at_risk() == []
    journal.abandon()


def test_what_is_written_during_a_sync_is_not_counted(kept: Kept) -> None:
    """A block written during a sync is durable only after the next one."""
    journal = kept.journal(0)
    write(journal, 50)
    kept.heard_ns, came, durable = 50, threading.Event(), list[int]()

    def meanwhile(call: Call) -> None:
        if call == Call("sync", kept.paths(journal)[2]):
            if not came.is_set():
                came.set()
                write(journal, 60)
                kept.heard_ns = 60
            else:
                durable.append(kept.keeper.durable_ns)

    kept.before = meanwhile
    kept.keeper.start()
    wait_for(lambda: kept.keeper.durable_ns == 60)
    assert durable[0] == 50
    first, second = kept.asked[:2]
    path = kept.paths(journal)[0]
    assert first <= kept.calls.place("sync", path) < second <= kept.calls.place("sync", path, second)


def test_a_journal_opened_while_others_are_synced_is_not_passed_over(kept: Kept) -> None:
    """The time is read before the list of journals: what it covers is in a journal that is synced."""
    kept.journal(0)
    ask, late = kept.through_ns, list[Journal]()

    def opened_as_it_is_asked() -> int:
        value = ask()
        if not late:
            late.append(kept.journal(1))
            write(late[0], 50)
        return value

    kept.heard_ns = 50
    kept.keeper._through_ns = opened_as_it_is_asked
    kept.keeper.start()
    wait_for(lambda: kept.keeper.durable_ns == 50)
    kept.calls.place("sync", kept.paths(late[0])[0])


def test_a_disk_that_does_not_sync_makes_nothing_durable(kept: Kept) -> None:
    """If one of many syncs fails, the keeper ends, reports it, and the durable time stays where it was."""
    journals = [kept.journal(number) for number in range(2)]
    kept.heard_ns = 50

    def fail(call: Call) -> None:
        if call == Call("sync", kept.paths(journals[1])[1]):
            raise OSError(5, "Input/output error")

    kept.before = fail
    kept.keeper.start()
    kept.keeper.join(20)
    assert [error.filename for error in kept.failures if isinstance(error, OSError)] == [
        str(kept.paths(journals[1])[1])
    ]
    assert kept.keeper.durable_ns == 0


def test_the_time_that_is_durable_never_goes_back(kept: Kept) -> None:
    """If the written time goes back, as with a clock, the durable time does not."""
    kept.journal(0)
    kept.heard_ns = 50
    kept.keeper.start()
    wait_for(lambda: kept.keeper.durable_ns == 50)
    kept.heard_ns, asked = 40, len(kept.asked)
    wait_for(lambda: len(kept.asked) > asked + 1)
    assert kept.keeper.durable_ns == 50


def test_what_is_durable_is_never_older_than_a_second(store: Store) -> None:
    """What was written is synced as soon as the second is over, not before; then the next second begins."""
    (store.spool / SESSION).mkdir()
    it, now_ns = Kept(store), [7]
    clock, gaps = Clock(monotonic_ns=lambda: now_ns[0]), GapBook(store.sessions / SESSION / "gaps.json")
    it.keeper = JournalKeeper(store, lambda: ("A",), gaps, clock, it.failures.append, it.through_ns)

    def durable_at(time_ns: int, heard_ns: int) -> int:
        it.heard_ns, now_ns[0] = heard_ns, 7 + time_ns
        for _ in range(2):  # It reads its clock before it takes an order: by the second time it has taken this one.
            looked = threading.Event()
            it.keeper.call_when_sealed(looked.set)
            assert looked.wait(20)
        return it.keeper.durable_ns

    with recorded() as it.calls:
        it.keeper.start()
        try:
            for second in (1, 2, 3):
                assert durable_at(second * NS_PER_S - 1, 10 * second) == 10 * (second - 1)
                assert durable_at(second * NS_PER_S, 10 * second) == 10 * second
        finally:
            it.keeper.finish()
            it.keeper.join(20)
    assert it.failures == []


def test_each_second_is_synced_while_journals_are_sealed(kept: Kept) -> None:
    """However many journals wait to be sealed, one still being written is synced when its second is over."""
    open_one = kept.journal(0)
    write(open_one, 50)
    kept.heard_ns, sealed = 50, list[int]()
    stop = threading.Event()

    def hand_in_another() -> None:
        if not stop.is_set():
            sealed.append(1)
            kept.keeper.call_when_sealed(hand_in_another)

    kept.keeper.call_when_sealed(hand_in_another)
    kept.keeper.start()
    try:
        wait_for(lambda: kept.keeper.durable_ns == 50)
    finally:
        stop.set()
    assert sealed
