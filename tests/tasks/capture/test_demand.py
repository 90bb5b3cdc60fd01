"""Runs that share a session get the union of their symbols until the last of them ends."""

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.capture.clock import Clock
from tasks.capture.demand import Demand
from tasks.capture.request import CaptureRequest
from tasks.records.ledger import Request
from tasks.records.requests import change, join, requests_of, withdraw
from tasks.records.trade import NS_PER_S

START_NS = 1_795_530_600 * NS_PER_S


class Hands:
    """Two clocks that stay where they are set."""

    def __init__(self) -> None:
        self.mono_ns, self.wall_ns = 5 * NS_PER_S, START_NS

    def clock(self) -> Clock:
        return Clock(lambda: self.wall_ns, lambda: self.mono_ns)

    def pass_s(self, seconds: float) -> None:
        self.mono_ns += int(seconds * NS_PER_S)
        self.wall_ns += int(seconds * NS_PER_S)


@pytest.fixture
def hands() -> Hands:
    """The session's clocks."""
    return Hands()


@pytest.fixture
def session(tmp_path: Path) -> CaptureRequest:
    """A session of two symbols for a hundred seconds."""
    return CaptureRequest(
        session="20261124T143000Z-9f3c01ab", data_dir=tmp_path, feed_url="ws://127.0.0.1:1", symbols=("A", "B"),
        started_ns=START_NS, deadline_ns=START_NS + 100 * NS_PER_S,
    )  # fmt: skip


def another(symbols: str, until_s: int, name: str = "another") -> Request:
    return Request(id=name, owner="", symbols=tuple(symbols), start_ns=START_NS, until_ns=START_NS + until_s * NS_PER_S)


def test_a_session_begins_with_what_its_first_run_wants(session: CaptureRequest, hands: Hands) -> None:
    """If nobody has filed a request, the session's own is filed."""
    demand = Demand(session, hands.clock())
    (mine,) = demand.all
    assert (mine.symbols, mine.start_ns, mine.until_ns) == (("A", "B"), session.started_ns, session.deadline_ns)
    assert requests_of(session.folder) == demand.active == demand.all
    assert (demand.symbols, demand.left_s, demand.until_ns) == (("A", "B"), 100.0, session.deadline_ns)
    assert not demand.was_withdrawn


def test_one_that_goes_on_keeps_the_requests_that_are_there(session: CaptureRequest, hands: Hands) -> None:
    """A recorder that follows a killed one files nothing and accepts requests again."""
    Demand(session, hands.clock()).end(now=True)
    assert not join(session.folder, another("C", 50), START_NS)
    (first,) = Demand(session, hands.clock()).all
    assert join(session.folder, another("C", 50), START_NS)
    assert [each.id for each in requests_of(session.folder)] == [first.id, "another"]


def test_the_last_to_end_says_how_long_and_all_say_what(session: CaptureRequest, hands: Hands) -> None:
    """The union shrinks with each request that ends, and is empty after the last."""
    demand = Demand(session, hands.clock())
    join(session.folder, another("BC", 150), START_NS)
    assert demand.symbols == ("A", "B")
    demand.look()
    assert (demand.symbols, demand.left_s) == (("A", "B", "C"), 150.0)
    hands.pass_s(99.5)
    assert (demand.symbols, demand.left_s) == (("A", "B", "C"), 50.5)
    hands.pass_s(0.5)
    assert (demand.symbols, demand.left_s, len(demand.active)) == (("B", "C"), 50.0, 1)
    hands.pass_s(50)
    assert (demand.symbols, demand.left_s, demand.active, len(demand.all)) == ((), 0.0, (), 2)
    assert demand.until_ns == START_NS + 150 * NS_PER_S


def test_a_stepped_clock_neither_ends_nor_prolongs_a_request(session: CaptureRequest, hands: Hands) -> None:
    """A request's end is a duration from when it is first seen, whatever the wall clock does later."""
    demand = Demand(session, hands.clock())
    hands.wall_ns += 1000 * NS_PER_S
    assert demand.left_s == 100.0
    join(session.folder, another("C", 1030), START_NS)
    demand.look()
    assert demand.left_s == 100.0
    hands.pass_s(40)
    assert demand.symbols == ("A", "B")
    change(session.folder, lambda _: ("A", "D"), START_NS)
    demand.look()
    assert (demand.symbols, demand.left_s) == (("A", "D"), 60.0)


def test_what_is_withdrawn_is_not_wanted_any_more(session: CaptureRequest, hands: Hands) -> None:
    """A withdrawn request is not active and ends with its withdrawal; a withdrawn longest one is reported."""
    demand = Demand(session, hands.clock())
    join(session.folder, another("C", 50), START_NS)
    withdraw(session.folder, "another", START_NS + 10 * NS_PER_S)
    demand.look()
    assert (demand.symbols, demand.until_ns, demand.was_withdrawn) == (("A", "B"), session.deadline_ns, False)
    withdraw(session.folder, demand.all[0].id, START_NS + 20 * NS_PER_S)
    demand.look()
    assert (demand.symbols, demand.until_ns) == ((), START_NS + 20 * NS_PER_S)
    assert demand.was_withdrawn


def test_a_withdrawal_at_its_very_end_is_none(session: CaptureRequest, hands: Hands) -> None:
    """A withdrawal at its very end does not count: the run has had its time."""
    demand = Demand(session, hands.clock())
    demand._note(tuple(replace(each, withdrawn_ns=each.until_ns) for each in demand.all))
    assert not demand.was_withdrawn


def test_a_session_ends_unless_somebody_still_wants_something(session: CaptureRequest, hands: Hands) -> None:
    """A request filed just before the end keeps the session open; after the end none is accepted."""
    demand = Demand(session, hands.clock())
    hands.pass_s(100)
    join(session.folder, another("C", 150), START_NS)
    assert demand.end(now=False) is False
    assert demand.symbols == ("C",)
    hands.pass_s(50)
    assert demand.end(now=False) is True
    assert not join(session.folder, another("D", 300, "late"), START_NS)
    again = Demand(session, hands.clock())
    join(session.folder, another("D", 300, "late"), START_NS)
    assert again.end(now=True) is True
    assert not join(session.folder, another("E", 300, "later"), START_NS)
