"""The numbers missing from a batch or session are found from its archived rows."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from tasks.archive.trade_numbers import TradeNumbers, missing_and_named
from tasks.records.ledger import Gap
from tasks.records.manifest import MissingIds, Report, TradeIds


def rows(*numbers: tuple[str, int | None, int]) -> pl.DataFrame:
    return pl.DataFrame(numbers, {"symbol": pl.String, "trade_id": pl.Int64, "ts_recv": pl.Int64}, orient="row")


def report(*slices: pl.DataFrame) -> Report:
    numbers = TradeNumbers()
    for each in slices:
        numbers.note(each)
    return Report(
        rows=0, valid=0, quarantined=0, trade_ids=numbers.ranges(), missing_ids=tuple(numbers.missing),
        missing_ids_unlisted=numbers.unlisted,
    )  # fmt: skip


def gap(start_ns: int, end_ns: int | None, symbol: str = "A") -> Gap:
    return Gap(symbols=(symbol,), start_ns=start_ns, end_ns=end_ns, reason="")


def test_holes_are_found_within_and_across_slices_symbol_by_symbol() -> None:
    """A hole lies between the times of its neighbors; repeated and unreadable numbers make no hole."""
    found = report(
        rows(("A", 1, 10), ("B", 70, 11), ("A", 4, 20), ("A", None, 21)),
        rows(("A", 4, 25), ("A", 3, 26), ("B", 72, 30), ("A", 5, 31)),
    )
    assert found.missing_ids == (MissingIds("A", 2, 3, 10, 20), MissingIds("B", 71, 71, 11, 30))
    assert found.trade_ids == {"A": TradeIds(1, 5, 10, 31), "B": TradeIds(70, 72, 11, 30)}


def test_a_number_is_named_where_a_gap_of_its_symbol_touches_its_time() -> None:
    """Gaps of other symbols or times explain no hole; an open gap explains every later one."""
    holed = [report(rows(("A", 1, 10), ("A", 4, 20)))]
    assert missing_and_named(holed, []) == (2, 0)
    assert missing_and_named(holed, [gap(12, 13, "B"), gap(0, 10), gap(20, None)]) == (2, 0)
    for touching in (gap(0, 11), gap(12, 13), gap(19, 90), gap(5, None)):
        assert missing_and_named(holed, [touching]) == (2, 2)


def test_a_hole_within_one_receipt_needs_a_gap_of_its_own() -> None:
    """If both neighbors have the same time, a gap that begins then explains the hole, one that ends then does not."""
    holed = [report(rows(("A", 1, 10), ("A", 4, 10)))]
    assert missing_and_named(holed, [gap(0, 10)]) == (2, 0)
    assert missing_and_named(holed, [gap(10, 11)]) == (2, 2)


def test_numbers_are_missing_between_batches_too() -> None:
    """Holes are found even if a batch contains redelivered trades."""
    first, last = report(rows(("A", 1, 10), ("A", 2, 20))), report(rows(("A", 6, 50), ("A", 7, 60)))
    again = report(rows(("A", 1, 30), ("A", 2, 31)))
    assert missing_and_named([first, again, last], [gap(25, 40)]) == (3, 3)
    assert missing_and_named([first, last], []) == (3, 0)


def test_numbers_that_begin_anew_are_not_missing() -> None:
    """A feed that restarts its numbers at one makes no hole, within a batch or between two."""
    before, after = rows(("A", 900, 10), ("A", 901, 20)), rows(("A", 1, 30), ("A", 2, 40))
    assert missing_and_named([report(before, after)], []) == (0, 0)
    assert missing_and_named([report(before), report(after)], []) == (0, 0)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.data())
def test_slices_and_batches_find_what_one_frame_finds(numbers: list[int], data: st.DataObject) -> None:
    """Holes do not depend on slices; with rising numbers they do not depend on batches either."""
    every = rows(*(("A", number, at) for at, number in enumerate(numbers)))
    at = data.draw(st.integers(0, len(numbers)))
    assert report(every) == report(every[:at], every[at:])
    rising = every.sort("trade_id").with_columns(ts_recv=pl.int_range(pl.len()))
    assert missing_and_named([report(rising[:at]), report(rising[at:])], []) == missing_and_named([report(rising)], [])
