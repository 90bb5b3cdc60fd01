"""A feed's numbers reveal what it did not send, and every missing number lies in a gap."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tasks.capture.gaps import _MOST_HOLES, GapBook, MissingNumbers, Sequence
from tasks.feeds.base import Reading
from tasks.records.manifest import MissingIds


def trades(*numbers: int, symbol: str = "A") -> Reading:
    return Reading(symbols=[symbol] * len(numbers), trade_ids=list(numbers))


def told(number: int, symbol: str = "A") -> Reading:
    return Reading(last_ids={symbol: number})


def holes(*readings: Reading) -> list[MissingIds]:
    """Return the holes that these messages reveal, received at 10, 20, 30, … ns."""
    sequence = Sequence()
    return [hole for at, reading in enumerate(readings, 1) for hole in sequence.holes(reading, 10 * at)]


def test_a_jump_is_a_hole_between_its_neighbors() -> None:
    """A hole has the missing numbers, from the trade before them to the trade after."""
    assert holes(trades(5, 6), trades(9), trades(10)) == [MissingIds("A", 7, 8, 10, 20)]


def test_the_first_number_and_numbers_from_before_show_nothing() -> None:
    """A session may begin at any number; repeated or late trades are not missing."""
    assert holes(trades(100), trades(99, 100, 101), trades(3)) == []


def test_the_match_from_before_a_subscription_shows_what_came_after_it() -> None:
    """Numbers count from the one before the subscription: the next trade has the next number."""
    assert holes(told(7), trades(8)) == []
    assert holes(told(7), trades(10)) == [MissingIds("A", 8, 9, 10, 20)]


def test_what_a_heartbeat_tells_is_missing_if_it_has_not_come_by_the_next() -> None:
    """A heartbeat may overtake a trade; one with the number 0 reports nothing and is not passed on."""
    assert holes(trades(5), told(6), trades(6), told(6)) == []
    assert holes(trades(5), told(8)) == []
    assert holes(trades(5), told(8), told(8)) == [MissingIds("A", 6, 8, 10, 30)]
    assert holes(trades(5), told(8), told(9), told(9)) == [MissingIds("A", 6, 8, 10, 30), MissingIds("A", 9, 9, 30, 40)]


def test_symbols_are_numbered_apart() -> None:
    """A jump of one symbol's numbers says nothing about another."""
    assert holes(trades(5), trades(50, symbol="B"), trades(6), trades(52, symbol="B")) == [
        MissingIds("B", 51, 51, 20, 40)
    ]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=30))
def test_every_number_between_the_first_and_the_highest_is_sent_or_in_a_hole(numbers: list[int]) -> None:
    """No missing number is omitted or reported twice."""
    found = holes(*(trades(number) for number in numbers))
    missing = [number for hole in found for number in range(hole.first_id, hole.last_id + 1)]
    rising = [number for place, number in enumerate(numbers) if number > max(numbers[:place], default=0)]
    assert sorted(missing + rising) == list(range(numbers[0], max(numbers) + 1))


def test_a_hole_in_a_known_gap_is_explained_and_any_other_gets_a_gap(tmp_path: Path) -> None:
    """A lost connection's gap contains the numbers missed in it; others get a gap of their own."""
    gaps = GapBook(tmp_path / "gaps.log")
    missing = MissingNumbers(gaps)
    missing.note(trades(1), 10)
    gaps.open(("A",), 12, "the connection broke")
    gaps.close(("A",), 18)
    missing.note(trades(5), 20)
    assert [gap.reason for gap in gaps.all()] == ["the connection broke"]
    missing.note(trades(8), 30)
    named = gaps.all()[1]
    assert (named.symbols, named.start_ns, named.end_ns) == (("A",), 20, 30)
    assert named.reason == "trade numbers 6 to 7 are missing"


def test_numbers_with_hole_after_hole_end_in_one_gap(tmp_path: Path) -> None:
    """The gaps of a feed with senseless numbers are bounded, and no missing number is outside of them."""
    gaps = GapBook(tmp_path / "gaps.log")
    missing = MissingNumbers(gaps)
    for n in range(_MOST_HOLES + 50):
        missing.note(trades(1 + 2 * n), 10 * n)
    found = gaps.all()
    assert len(found) == _MOST_HOLES + 1
    assert found[-1].end_ns is None
    assert found[-1].start_ns == 10 * _MOST_HOLES
