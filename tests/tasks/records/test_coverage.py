"""Coverage: requested time that could be received, and every other interval with its reason."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.records.coverage import (
    BEGAN_LATE,
    ENDED_EARLY,
    NO_RECORDING,
    NOT_CONNECTED,
    clipped,
    coverage,
    day_coverage,
    notable,
    requests_of_record,
    session_coverage,
)
from tasks.records.ledger import Coverage, CoveredTime, Gap, Request, SessionRecord, SymbolChange
from tasks.records.trade import NS_PER_S

HOUR_NS = 3600 * NS_PER_S
# 2026-11-24 00:00 in New York, 05:00 UTC.
MIDNIGHT_NS = 1_795_496_400 * NS_PER_S


def gap(symbols: str, start: int, end: int | None, reason: str = "lost") -> Gap:
    return Gap(symbols=tuple(symbols), start_ns=start, end_ns=end, reason=reason)


def change(at: int, symbol: str, action: Any) -> SymbolChange:
    return SymbolChange(at_ns=at, symbol=symbol, action=action)


def record(start: int = 0, end: int = 100, *, symbols: str | tuple[str, ...] = "AB", **changes: Any) -> SessionRecord:
    facts: dict[str, Any] = {
        "session": f"20261124T143000Z-{start % 2**32:08x}", "feed": "finnhub",
        "symbols": tuple(symbols), "started_ns": start,
        "listening_ns": start, "ended_ns": end, "deadline_ns": end, "outcome": "complete", "error": None,
        "connections": 1, "frames_received": 0, "batches": (), "gaps": (),
    }  # fmt: skip
    return SessionRecord(**{**facts, **changes})


def ask(start: int = 0, end: int = 100, symbols: str | tuple[str, ...] = "AB", **changes: Any) -> Request:
    return Request(id="r", owner="o", symbols=tuple(symbols), start_ns=start, until_ns=end, **changes)


def said(found: Coverage) -> list[tuple[str, int, int | None, str]]:
    """The gaps in short: symbols, start, end, reason."""
    return [("".join(each.symbols), each.start_ns, each.end_ns, each.reason) for each in found.gaps]


def test_a_session_that_received_all_covers_all() -> None:
    """With full coverage, requested and received time are equal for each symbol, and there is no gap."""
    found = coverage([ask()], [record()])
    assert (found.asked_ns, found.received_ns, found.share, found.gaps) == (200, 200, 1.0, ())
    assert found.per_symbol == dict.fromkeys("AB", CoveredTime(asked_ns=100, received_ns=100))


def test_a_late_start_and_an_early_end_are_gaps() -> None:
    """Requested time before the first subscription and after the end counts as missing."""
    found = coverage([ask()], [record(20, 90, listening_ns=30, deadline_ns=100)])
    assert said(found) == [("AB", 0, 30, BEGAN_LATE), ("AB", 90, 100, ENDED_EARLY)]
    assert found.share == 0.6


def test_time_between_two_sessions_is_a_gap() -> None:
    """Time without a session is missing for that reason."""
    assert said(coverage([ask()], [record(0, 40), record(60, 100)])) == [("AB", 40, 60, NO_RECORDING)]
    assert said(coverage([ask()], [])) == [("AB", 0, 100, NO_RECORDING)]


def test_the_sessions_own_gaps_keep_their_reasons() -> None:
    """A gap is clipped to the requested time; an open gap extends to the session's end."""
    mine = record(gaps=(gap("A", 10, 30), gap("AB", 90, None, "killed")))
    found = coverage([ask(20, 100)], [mine])
    assert said(found) == [("A", 20, 30, "lost"), ("AB", 90, 100, "killed")]
    assert found.per_symbol["A"] == CoveredTime(asked_ns=80, received_ns=60)


def test_what_another_session_received_is_no_gap() -> None:
    """A killed session's gap extends to its deadline, except for what a later session recorded."""
    killed = record(0, 100, gaps=(gap("AB", 30, 100, "killed"),), outcome="killed")
    later = record(50, 100, listening_ns=55)
    found = coverage([ask()], [killed, later])
    assert said(found) == [("AB", 30, 55, "killed")]
    assert found.received_ns == 150


def test_a_session_that_never_connected_received_nothing() -> None:
    """Time without a connection does not count as received, with or without a gap that says why."""
    assert said(coverage([ask()], [record(listening_ns=None)])) == [("AB", 0, 100, NOT_CONNECTED)]
    refused = record(listening_ns=None, gaps=(gap("AB", 0, 100, "no route"),))
    found = coverage([ask()], [refused])
    assert (said(found), found.share) == ([("AB", 0, 100, "no route")], 0.0)


def test_symbols_count_from_when_they_were_added_until_they_were_removed() -> None:
    """A symbol counts as requested and received only while it is on the list."""
    changes = (change(20, "C", "added"), change(50, "A", "removed"), change(70, "A", "added"))
    mine = record(symbols="ABC", changes=changes)
    found = coverage([ask(symbols="AB", changes=changes)], [mine])
    assert found.gaps == ()
    assert {symbol: time.asked_ns for symbol, time in found.per_symbol.items()} == {"A": 80, "B": 100, "C": 80}
    found = coverage([ask(symbols="ABC")], [mine])
    assert said(found) == [("C", 0, 20, BEGAN_LATE), ("A", 50, 70, NO_RECORDING)]


def test_market_hours_are_the_exchanges_or_all_the_time() -> None:
    """A gap outside market hours does not reduce a stock's coverage within them; UTC symbols count all time."""
    hours = ((40, 60), (80, 90))
    both = record(symbols=("A", "X:Y"), gaps=(Gap(symbols=("A", "X:Y"), start_ns=55, end_ns=75, reason="lost"),))
    found = coverage([ask(symbols=("A", "X:Y"), hours=hours)], [both])
    assert found.per_symbol["A"] == CoveredTime(
        asked_ns=100, received_ns=80, hours_asked_ns=30, hours_received_ns=25
    )  # fmt: skip
    assert found.per_symbol["X:Y"].hours_share == found.per_symbol["X:Y"].share == 0.8
    assert found.hours_share == (25 + 80) / 130
    assert coverage([ask()], [record()]).hours_share is None, "hours that are not known are no hours"


def test_two_requests_ask_for_the_same_time_once() -> None:
    """Overlapping requests count once, and a withdrawn request counts until its withdrawal."""
    requests = [ask(0, 50), ask(40, 100, "A"), ask(0, 90, "C", withdrawn_ns=10)]
    found = coverage(requests, [record(symbols="AB")])
    assert {symbol: time.asked_ns for symbol, time in found.per_symbol.items()} == {"A": 100, "B": 50, "C": 10}
    assert said(found) == [("C", 0, 10, NOT_CONNECTED)]


def test_while_a_session_records_the_future_is_not_missing() -> None:
    """Time after the recorder's latest status counts neither as requested nor as missing."""
    found = coverage([ask()], [record(0, 60, outcome="recording", deadline_ns=100, gaps=(gap("A", 50, None),))])
    assert (found.asked_ns, found.received_ns) == (120, 110)
    killed = record(0, 100, gaps=(gap("AB", 30, 100, "killed"),), outcome="killed")
    found = coverage([ask()], [killed, record(40, 60, outcome="recording", deadline_ns=100)])
    assert said(found) == [("AB", 30, 40, "killed")]


def test_a_window_clips_all() -> None:
    """Requested and received time, hours, and gaps are clipped to the window."""
    found = coverage([ask(hours=((0, 100),))], [record(gaps=(gap("A", 10, 30), gap("B", 80, 90)))], (20, 60))
    assert (found.asked_ns, found.received_ns, found.hours_asked_ns) == (80, 70, 80)
    assert said(found) == [("A", 20, 30, "lost")]


@pytest.mark.parametrize(("outcome", "until"), [("complete", 100), ("killed", 100), ("stopped", 60)])
def test_a_record_without_requests_asks_for_its_symbols(outcome: Any, until: int) -> None:
    """A session without requests counts its first symbols until its deadline or stop."""
    changes = (change(20, "B", "added"),)
    (found,) = requests_of_record(record(0, 60, deadline_ns=100, outcome=outcome, changes=changes))
    assert (found.symbols, found.current, found.start_ns, found.end_ns) == (("A",), ("A", "B"), 0, until)
    mine = ask()
    assert requests_of_record(record(requests=(mine,))) == (mine,)


def test_older_overlapping_gaps_count_once() -> None:
    """Overlapping gaps of a symbol become disjoint, and no time counts as lost twice."""
    found = coverage([ask(symbols="A")], [record(gaps=(gap("A", 10, 40, "one"), gap("A", 20, 60, "two")))])
    assert said(found) == [("A", 10, 40, "one"), ("A", 40, 60, "two")]
    assert found.received_ns == 50


def test_a_day_goes_from_midnight_to_midnight_of_each_symbols_zone() -> None:
    """A session is split at New York's midnight for stocks and at UTC's for crypto."""
    night = record(MIDNIGHT_NS - 6 * HOUR_NS, MIDNIGHT_NS + HOUR_NS, symbols=("A", "X:Y"))
    night = replace(
        night, gaps=(Gap(symbols=("A", "X:Y"), start_ns=MIDNIGHT_NS, end_ns=night.ended_ns, reason="lost"),)
    )
    before, after = day_coverage([night], "2026-11-23"), day_coverage([night], "2026-11-24")
    assert {symbol: time.asked_ns // HOUR_NS for symbol, time in before.per_symbol.items()} == {"A": 6, "X:Y": 1}
    assert {symbol: time.asked_ns // HOUR_NS for symbol, time in after.per_symbol.items()} == {"A": 1, "X:Y": 6}
    assert (before.gaps, after.gaps) == ((), night.gaps)


def test_a_gap_is_clipped_to_the_day_of_its_symbols() -> None:
    """A gap across midnight is split, at UTC's for UTC symbols; an open gap stays open."""
    long = Gap(symbols=("A", "X:Y"), start_ns=MIDNIGHT_NS - HOUR_NS, end_ns=MIDNIGHT_NS + HOUR_NS, reason="lost")
    of_a, of_y = replace(long, symbols=("A",)), replace(long, symbols=("X:Y",))
    assert clipped(long, "2026-11-23", "finnhub", "America/New_York") == (replace(of_a, end_ns=MIDNIGHT_NS),)
    assert clipped(long, "2026-11-24", "finnhub", "America/New_York") == (replace(of_a, start_ns=MIDNIGHT_NS), of_y)
    assert clipped(replace(of_a, end_ns=None), "2026-11-24", "finnhub", "America/New_York")[0].end_ns is None


def test_a_session_is_asked_by_its_requests() -> None:
    """A session's requests are those of its record, or else its first symbols."""
    lost = record(0, 60, deadline_ns=100, gaps=(gap("A", 10, 20),))
    assert said(session_coverage(lost)) == [("A", 10, 20, "lost"), ("AB", 60, 100, ENDED_EARLY)]
    assert said(session_coverage(replace(lost, requests=(ask(10, 50, "A"),)))) == [("A", 10, 20, "lost")]


def test_the_seconds_of_a_start_are_not_notable() -> None:
    """Only short gaps at a recording's start are left out; an open gap has no length yet."""
    ten_ns = 10 * NS_PER_S
    short = [gap("A", 5, 5 + ten_ns - 1, reason) for reason in (BEGAN_LATE, NO_RECORDING)]
    lasting = [gap("A", 5, None, BEGAN_LATE)]
    told = [gap("A", 5, 5 + ten_ns, BEGAN_LATE), gap("A", 5, 6, ENDED_EARLY), gap("A", 5, None, "lost")]
    assert notable([*short, *lasting, *told]) == tuple(told)


def test_the_hours_of_several_requests_add_up() -> None:
    """Each request counts its own interval with its own market hours."""
    asked = [ask(0, 40, "A", hours=((10, 20),)), ask(50, 100, "A", hours=((60, 90),))]
    found = coverage(asked, [record(symbols="A", gaps=(gap("A", 15, 65),))])
    assert (found.asked_ns, found.hours_asked_ns, found.hours_received_ns) == (90, 40, 30)


def test_each_gap_has_its_part_of_each_missing_stretch() -> None:
    """Any number of missing intervals within any gap is found."""
    lost = tuple(gap("A", start, start + 5, f"lost at {start}") for start in range(0, 100, 20))
    found = coverage([ask(symbols="A")], [record(symbols="A", gaps=lost), record(1, 100, symbols="B")])
    assert said(found) == [("A", each.start_ns, each.end_ns, each.reason) for each in lost]
    pieces = [ask(start, start + 10, "A") for start in range(0, 100, 20)]
    one = record(symbols="A", gaps=(gap("A", 5, 85), gap("A", 87, 95, "again")))
    assert said(coverage(pieces, [one])) == [
        ("A", 5, 10, "lost"), ("A", 20, 30, "lost"), ("A", 40, 50, "lost"), ("A", 60, 70, "lost"),
        ("A", 80, 85, "lost"), ("A", 87, 90, "again"),
    ]  # fmt: skip


def test_a_gap_that_only_meets_a_day_has_no_part_in_it() -> None:
    """Ending at its midnight, beginning at the next one, or empty."""
    zone, before = "America/New_York", MIDNIGHT_NS - HOUR_NS
    assert clipped(gap("A", before, MIDNIGHT_NS), "2026-11-24", "finnhub", zone) == ()
    assert clipped(gap("A", MIDNIGHT_NS, MIDNIGHT_NS + 1), "2026-11-23", "finnhub", zone) == ()
    assert clipped(gap("A", before, before), "2026-11-23", "finnhub", zone) == ()
    assert clipped(gap("A", MIDNIGHT_NS, None), "2026-11-23", "finnhub", zone) == ()
    assert clipped(gap("A", before, None), "2026-11-23", "finnhub", zone) == (gap("A", before, None),)


SOME = st.frozensets(st.sampled_from("ABC"))
TIME = st.integers(0, 24)
CHANGES = st.lists(st.tuples(TIME, st.sampled_from("ABC"), st.sampled_from(("added", "removed"))), max_size=4)


@st.composite
def requests(draw: Any) -> Request:
    start, end = sorted(draw(st.tuples(TIME, TIME)))
    return ask(start, end, "".join(sorted(draw(SOME))), changes=_in_order(draw(CHANGES)))


@st.composite
def records(draw: Any) -> SessionRecord:
    start, listening, end = sorted(draw(st.tuples(TIME, TIME, TIME)))
    gaps = [gap("".join(sorted(draw(SOME))), *sorted(draw(st.tuples(TIME, TIME)))) for _ in range(draw(TIME) % 4)]
    first, changes = draw(SOME), _in_order(draw(CHANGES))
    # A recorder notes a change only where there is one.
    kept, now = [], set(first)
    for each in changes:
        if (each.action == "added") != (each.symbol in now):
            now ^= {each.symbol}
            kept.append(each)
    symbols = "".join(sorted(first | {each.symbol for each in kept}))
    return record(start, end, symbols=symbols, listening_ns=draw(st.sampled_from((None, listening))), gaps=tuple(gaps),
                  changes=tuple(kept))  # fmt: skip


def _in_order(changes: list[Any]) -> tuple[SymbolChange, ...]:
    return tuple(change(*each) for each in sorted(changes, key=lambda each: each[0]))


def is_listed(first: tuple[str, ...], changes: tuple[SymbolChange, ...], symbol: str, at: int) -> bool:
    """Return whether the symbol is on the list in the unit of time that begins at `at`."""
    listed = symbol in first
    for each in changes:
        if each.symbol == symbol and each.at_ns <= at:
            listed = each.action == "added"
    return listed


def is_received(of: SessionRecord, symbol: str, at: int) -> bool:
    if of.listening_ns is None or not of.listening_ns <= at < of.ended_ns:
        return False
    in_gap = any(symbol in each.symbols and each.start_ns <= at < (each.end_ns or 0) for each in of.gaps)
    return is_listed(requests_of_record(of)[0].symbols, of.changes, symbol, at) and not in_gap


@given(st.lists(requests(), max_size=3), st.lists(records(), max_size=3))
@example([ask(0, 2, "A")], [record(0, 0, symbols="", gaps=(gap("A", 1, 1),))])
def test_coverage_is_what_counting_instants_gives(asked: list[Request], sessions: list[SessionRecord]) -> None:
    """Each unit of requested time that no session received is in exactly one gap, and nothing else is."""
    found = coverage(asked, sessions)
    wanted = {
        (symbol, at) for each in asked for symbol in "ABC" for at in range(each.start_ns, each.end_ns)
        if is_listed(each.symbols, each.changes, symbol, at)
    }  # fmt: skip
    received = {(symbol, at) for symbol, at in wanted if any(is_received(each, symbol, at) for each in sessions)}
    in_gaps = [(symbol, at) for each in found.gaps for symbol in each.symbols
               for at in range(each.start_ns, each.end_ns or 0)]  # fmt: skip
    assert (found.asked_ns, found.received_ns) == (len(wanted), len(received))
    assert len(in_gaps) == len(set(in_gaps))
    assert set(in_gaps) == wanted - received
    assert all(each.reason for each in found.gaps)
    for each in found.gaps:
        # A gap that lasts no time, which a record may have, is no reason.
        own = any(set(each.symbols) & set(gap.symbols)
                  and max(gap.start_ns, each.start_ns) < min(gap.end_ns or 0, each.end_ns or 0)
                  for of in sessions for gap in of.gaps)  # fmt: skip
        assert own == (each.reason == "lost")
