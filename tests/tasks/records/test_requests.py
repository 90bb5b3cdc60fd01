"""Requests of runs to a session: filed, changed, withdrawn, and closed."""

import os
import threading
from pathlib import Path

import pytest

from tasks.errors import TerminalError
from tasks.records.ledger import Request
from tasks.records.requests import (
    change,
    close,
    is_running,
    join,
    reopen,
    requests_of,
    stamp_of,
    symbols_of,
    this_process,
    withdraw,
)


def wants(name: str, symbols: str = "A", until_ns: int = 100, process: str = "") -> Request:
    return Request(
        id=name, owner=name, symbols=tuple(symbols), start_ns=0, until_ns=until_ns, process=process or this_process()
    )


def test_changes_of_many_are_all_made(tmp_path: Path) -> None:
    """Concurrent changes are all applied."""
    join(tmp_path, wants("one"), 0)
    threads = [threading.Thread(target=change, args=(tmp_path, lambda now, n=n: (*now, f"S{n}"), 1)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(symbols_of(requests_of(tmp_path))) == sorted(["A", *(f"S{n}" for n in range(16))])


def test_a_change_for_all_reaches_every_request_and_one_for_a_run_only_its_own(tmp_path: Path) -> None:
    """A change for all applies to each current request; a run's own list leaves the others alone."""
    for request in (wants("over", "X", until_ns=5), wants("one", "AB"), wants("two", "BC")):
        join(tmp_path, request, 0)
    assert change(tmp_path, lambda now: (*(each for each in now if each != "B"), "D"), 10) == ("A", "D", "C")
    assert change(tmp_path, lambda now: ("E",), 20, "two") == ("A", "D", "E")
    over, one, two = sorted(requests_of(tmp_path), key=lambda each: ["over", "one", "two"].index(each.id))
    assert (over.current, one.current, two.current) == (("X",), ("A", "D"), ("E",))
    assert [(each.at_ns, each.symbol, each.action) for each in two.changes] == [
        (10, "B", "removed"), (10, "D", "added"), (20, "C", "removed"), (20, "D", "removed"), (20, "E", "added"),
    ]  # fmt: skip


def test_a_change_that_leaves_nothing_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    """Removing the last symbol of the last request raises an error with the alternative."""
    join(tmp_path, wants("one"), 0)
    before = stamp_of(tmp_path)
    with pytest.raises(TerminalError, match="end the session instead"):
        change(tmp_path, lambda now: (), 1)
    assert requests_of(tmp_path) == (wants("one"),)
    assert stamp_of(tmp_path) == before


def test_a_closed_session_takes_no_more_until_it_is_reopened(tmp_path: Path) -> None:
    """A session with a current request cannot be closed; once closed, no request can be filed."""
    assert join(tmp_path, wants("one"), 0)
    assert not close(tmp_path, lambda requests: bool(requests))
    assert close(tmp_path, lambda requests: False)
    assert not join(tmp_path, wants("two"), 0)
    reopen(tmp_path)
    assert join(tmp_path, wants("two"), 0)
    assert [each.id for each in requests_of(tmp_path)] == ["one", "two"]


def test_filing_a_request_again_does_not_undo_what_was_changed(tmp_path: Path) -> None:
    """A retried run finds its request with all changes."""
    join(tmp_path, wants("one"), 0)
    change(tmp_path, lambda now: ("B",), 1)
    assert join(tmp_path, wants("one"), 2)
    assert symbols_of(requests_of(tmp_path)) == ("B",)


@pytest.mark.parametrize(
    ("symbols", "until_ns", "process", "gives_way"),
    [
        ("A", 100, "1/1/gone", True),
        ("AB", 100, "1/1/gone", False),
        ("A", 101, "1/1/gone", False),
        ("A", 100, "", False),
    ],
    ids=["asked for as much", "asked for more symbols", "asked for longer", "still runs"],
)
def test_only_a_dead_runs_request_that_the_new_one_covers_gives_way(
    tmp_path: Path, symbols: str, until_ns: int, process: str, gives_way: bool
) -> None:
    """A new request replaces another only if that one's run is gone and the new one covers it."""
    join(tmp_path, wants("before", symbols, until_ns, process), 0)
    join(tmp_path, wants("new", "AC", 100), 7)
    before, _new = requests_of(tmp_path)
    assert before.withdrawn_ns == (7 if gives_way else None)


def test_a_withdrawn_request_ends_then_and_one_that_has_ended_stays_as_it_was(tmp_path: Path) -> None:
    """A request is withdrawn once and only before its end; the result says whether others are current."""
    for request in (wants("one"), wants("two", until_ns=200)):
        join(tmp_path, request, 0)
    assert withdraw(tmp_path, "one", 50)
    assert withdraw(tmp_path, "one", 60)
    assert not withdraw(tmp_path, "two", 250)
    assert [each.end_ns for each in requests_of(tmp_path)] == [50, 200]


def test_a_process_is_known_from_one_that_got_its_number_later() -> None:
    """Only a live process with the same start and boot counts as running."""
    mine = this_process()
    pid, start, boot = mine.split("/")
    assert is_running(mine)
    assert not any(map(is_running, ("", "x", f"{pid}/{int(start) + 1}/{boot}", f"{pid}/{start}/other-boot")))
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # It has ended, and nobody has asked about it: a zombie.
    assert not is_running(f"{child}/{start}/{boot}")
    os.waitpid(child, 0)
