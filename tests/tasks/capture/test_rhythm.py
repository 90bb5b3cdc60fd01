"""From when on a silence of the feed or of one symbol is unusual."""

import pytest

from tasks.capture.rhythm import Rhythm, Stall
from tasks.records.trade import NS_PER_S

NOTHING = Stall(None, ())


def heard(rhythm: Rhythm, counts: dict[str, int], seconds: int, start_s: int = 0, step: int = 1) -> int:
    """Look each second while each symbol's count grows by `step`; return the second of the last look."""
    for second in range(start_s, start_s + seconds):
        for symbol in counts:
            counts[symbol] += step
        assert rhythm.look(second * NS_PER_S, 0, counts) == NOTHING
    return start_s + seconds - 1


def at(rhythm: Rhythm, second: float, counts: dict[str, int]) -> Stall:
    return rhythm.look(int(second * NS_PER_S), 0, counts)


def test_the_feed_is_strange_from_a_hundred_expected_trades_on() -> None:
    """At a trade a second, the feed's silence is unusual after 100 s, and the expected number is reported."""
    rhythm, counts = Rhythm(lambda *_: True), {"A": 0}
    last = heard(rhythm, counts, 60)
    assert at(rhythm, last + 99, counts) == NOTHING
    found = at(rhythm, last + 100, counts)
    assert found.feed_expected == pytest.approx(100)
    assert (found.symbols, found.again) == ((), False)


def test_what_is_expected_adds_up_over_the_symbols_that_are_known_and_open() -> None:
    """Two symbols bring as many in half the time; a closed or little-known one brings none."""
    rhythm, counts = Rhythm(lambda symbol, _: symbol != "CLOSED"), {"A": 0, "B": 0, "CLOSED": 0}
    last = heard(rhythm, counts, 60)
    assert at(rhythm, last + 49, counts) == NOTHING
    assert at(rhythm, last + 50, counts).feed_expected == pytest.approx(100)
    rhythm, counts = Rhythm(lambda *_: True), {"A": 0}
    last = heard(rhythm, counts, 30)  # The first look only begins the count: 29 trades are known.
    assert at(rhythm, last + 500, counts) == NOTHING
    counts["A"] += 1
    at(rhythm, last + 501, counts)
    assert at(rhythm, last + 501 + 4000, counts).feed_expected is not None


@pytest.mark.parametrize(("least_s", "feed"), [(None, 20), (35, 35)])
def test_no_silence_of_the_feed_is_strange_before_the_shortest(least_s: int | None, feed: int) -> None:
    """However busy the feed, its silence must have a minimum length, which is a parameter."""
    rhythm = Rhythm(lambda *_: True) if least_s is None else Rhythm(lambda *_: True, least_s * NS_PER_S)
    counts = {"A": 0}
    last = heard(rhythm, counts, 60, step=100)
    assert at(rhythm, last + feed - 0.001, counts) == NOTHING
    assert at(rhythm, last + feed, counts).feed_expected == pytest.approx(100 * feed)


def test_a_restart_forgets_the_silence_before_it() -> None:
    """Time in which nothing could be received is no silence, of the feed or of a symbol."""
    rhythm, counts = Rhythm(lambda *_: True), {"A": 0, "B": 0}
    last = heard(rhythm, counts, 60, step=10)
    rhythm.restart((last + 500) * NS_PER_S)
    assert at(rhythm, last + 519, counts) == NOTHING
    counts["A"] += 190
    assert at(rhythm, last + 520, counts) == NOTHING
    counts["A"] += 390
    assert at(rhythm, last + 559, counts) == NOTHING
    counts["A"] += 10
    assert at(rhythm, last + 560, counts) == Stall(None, ("B",))


def test_a_silence_after_a_restart_is_counted_from_it() -> None:
    """A restart counts from its own time, not from the first look after it."""
    rhythm, counts = Rhythm(lambda *_: True), {"A": 0}
    last = heard(rhythm, counts, 60, step=10)
    rhythm.restart((last + 500) * NS_PER_S)
    assert at(rhythm, last + 520, counts).feed_expected == pytest.approx(200)


def test_a_silence_is_told_twice_and_again_after_the_next_trade() -> None:
    """A silence is reported first for a new connection, then as lasting; a trade of any symbol starts over."""
    rhythm, counts = Rhythm(lambda *_: True), {"A": 0, "B": 0}
    last = heard(rhythm, counts, 60, step=10)
    assert [at(rhythm, last + 20 + more, counts).again for more in range(2)] == [False, True]
    assert at(rhythm, last + 22, counts) == NOTHING
    assert at(rhythm, last + 900, counts) == NOTHING  # Nor each symbol by itself: the silence of all is reported.
    counts["A"] += 1
    at(rhythm, last + 901, counts)
    assert at(rhythm, last + 4000, counts).feed_expected is not None


@pytest.mark.parametrize(("step", "strange_s"), [(1, 200), (2, 100), (100, 60)])
def test_one_symbol_is_strange_from_two_hundred_expected_trades_on(step: int, strange_s: int) -> None:
    """A symbol's silence is reported once, after a minute at the earliest; its next trade starts over."""
    rhythm, counts = Rhythm(lambda *_: True), {"A": 0, "B": 0}
    last = heard(rhythm, counts, 120, step=step)
    found = []
    for second in range(last + 1, last + 400):
        counts["A"] += step
        if (silence := at(rhythm, second, counts)) != NOTHING:
            found.append((second - last, silence))
    assert found == [(strange_s, Stall(None, ("B",)))]
    counts["B"] += step
    last = heard(rhythm, counts, 300, last + 400, step)
    for second in range(last + 1, last + 400):
        counts["A"] += step
        if at(rhythm, second, counts).symbols:
            return
    pytest.fail("the second silence was not told")


def test_a_rhythm_that_changes_is_learnt_by_and_by() -> None:
    """The newest interval weighs as one of all while few are known, and a twentieth from then on."""
    rhythm, counts = Rhythm(lambda *_: True), {"A": 0}
    at(rhythm, 0, counts)
    for second, count in ((30, 30), (130, 31)):  # 30 trades at one second, then one after 100 s.
        counts["A"] = count
        at(rhythm, second, counts)
    interval_s = 1 + (100 - 1) * 0.05
    assert at(rhythm, 130 + 99.9 * interval_s, counts) == NOTHING
    assert at(rhythm, 130 + 100.1 * interval_s, counts).feed_expected == pytest.approx(100.1)
    rhythm, counts = Rhythm(lambda *_: True), {"A": 0}
    at(rhythm, 0, counts)
    for second, count in ((4, 4), (14, 5), (44, 45)):  # 4 trades at 1 s; one at 10 s, a fifth; 40 at 0.75 s, a sixth.
        counts["A"] = count
        at(rhythm, second, counts)
    interval_s = 1 + 9 / 5
    interval_s += (0.75 - interval_s) / 6
    assert at(rhythm, 44 + 100.1 * interval_s, counts).feed_expected == pytest.approx(100.1)


def test_counts_that_do_not_grow_are_no_trade_and_a_new_symbol_begins_where_it_is() -> None:
    """What a symbol had counted before it was first seen, or a count that falls, is no rhythm."""
    rhythm = Rhythm(lambda *_: True)
    assert at(rhythm, 0, {"A": 10**9}) == NOTHING
    assert at(rhythm, 1, {"A": 5}) == NOTHING
    assert at(rhythm, 10**6, {"A": 10**9}) == NOTHING
    assert at(rhythm, 10**6, {}) == NOTHING
