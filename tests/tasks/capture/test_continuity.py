"""Where a lost connection's gap begins, decided from lists of events without a socket."""

from collections.abc import Callable

import pytest

from tasks.capture.continuity import Continuity
from tasks.records.trade import NS_PER_S

MS = 1_000_000
START_NS, SUBSCRIBED_NS = 100 * NS_PER_S, 101 * NS_PER_S
LOST = "the connection broke"

Event = Callable[[Continuity], object]


def at(ms: int) -> int:
    """Return the time so many milliseconds after the subscription."""
    return SUBSCRIBED_NS + ms * MS


def read(ms: int, *, delayed: bool = False, part: bool = False, completed: bool = True) -> Event:
    """Bytes that complete messages; `delayed` if others waited before them, `part` if they end within a message."""

    def happen(continuity: Continuity) -> None:
        continuity.read(at(ms), not delayed)
        continuity.cut(completed, part)

    return happen


def end(continuity: Continuity) -> None:
    """The peer ended the connection in order."""
    continuity.ended_in_order()


def after(*events: Event, subscribed: bool = True) -> Continuity:
    continuity = Continuity(START_NS)
    if subscribed:
        continuity.subscribed(continuity.stamp(SUBSCRIBED_NS))
    for event in events:
        event(continuity)
    return continuity


@pytest.mark.parametrize(
    ("events", "gap_ms"),
    [
        pytest.param([], 0, id="nothing received"),
        pytest.param([read(500)], 500, id="the last bytes"),
        pytest.param([read(500), read(9_000)], 9_000, id="the last of several"),
        pytest.param([read(500), read(600, delayed=True)], 600, id="shortly behind"),
        pytest.param([read(500), read(750, delayed=True)], 500, id="250 ms behind"),
        pytest.param([read(500), read(9_000, delayed=True)], 500, id="far behind"),
        pytest.param([read(500), read(9_000, delayed=True), read(9_001)], 9_001, id="caught up"),
        pytest.param([read(500), read(9_000, delayed=True), end], 9_000, id="behind, then an end in order"),
        pytest.param([read(500), read(600, part=True)], 600, id="part of a message, begun in the last read"),
        pytest.param(
            [read(500, part=True), read(600, part=True, completed=False)], 500, id="part of an earlier message"
        ),
        pytest.param([read(500, part=True), read(600, completed=True)], 600, id="completed"),
        pytest.param([read(500, part=True), read(600, part=True)], 600, id="completed, and part of the next"),
        pytest.param([read(500, part=True, completed=False)], 500, id="nothing but part of a message"),
        pytest.param(
            [read(500, part=True), read(600, part=True, completed=False), end], 500, id="an end within a message"
        ),
        pytest.param([read(500), read(-5_000)], 500, id="the wall clock was put back"),
        pytest.param([read(-5_000, delayed=True), end], 0, id="never before the subscription"),
    ],
)
def test_a_gap_begins_where_the_last_whole_message_was_received(events: list[Event], gap_ms: int) -> None:
    """Delayed bytes and incomplete messages move it back, but never to before the subscription."""
    assert after(*events).gap(LOST, 0) == (at(gap_ms), LOST)


def test_before_the_subscription_the_gap_begins_at_the_given_start() -> None:
    """What a connection brings before all its requests were sent does not shorten the gap."""
    assert after(subscribed=False).gap(LOST, 0) == (START_NS, LOST)
    assert after(read(0, delayed=True), subscribed=False).gap(LOST, 0) == (START_NS, LOST)
    continuity = Continuity(0)
    read(0, delayed=True)(continuity)
    assert continuity.gap(LOST, 0) == (0, LOST)


def test_a_silent_feed_leaves_a_gap_from_its_last_trade() -> None:
    """Pongs and heartbeats that came later do not shorten it; the reason is why the connection ended."""
    continuity = after(read(500), read(60_000))
    continuity.silent(at(500), "silent for 60 s")
    assert continuity.silence == (at(500), "silent for 60 s")
    assert continuity.gap("silent for 60 s", 0) == (at(500), "silent for 60 s")


@pytest.mark.parametrize(
    ("wait_s", "later_s", "is_mentioned"), [(1.0, 0, False), (1.5, 0, True), (1.5, 29.9, True), (1.5, 30, False)]
)
def test_a_long_wait_for_the_journal_is_part_of_the_reason(wait_s: float, later_s: float, is_mentioned: bool) -> None:
    """A feed that drops a slow reader does so soon after: a short wait, or one long ago, explains nothing."""
    continuity, mono_ns = after(read(500)), 7 * NS_PER_S
    continuity.waited(int(wait_s * NS_PER_S), mono_ns)
    continuity.waited(0, mono_ns + 1)
    _, reason = continuity.gap(LOST, mono_ns + int(later_s * NS_PER_S))
    added = "; for 1.5 s before, the journal had held up the reading"
    assert reason == LOST + (added if is_mentioned else "")


def test_everything_sent_is_received_up_to_the_last_read_that_found_the_socket_empty() -> None:
    """`through_ns` falls behind the last bytes only once they are a quarter of a second late."""
    continuity = after(read(500))
    assert continuity.through_ns == at(500)
    read(749, delayed=True)(continuity)
    assert continuity.through_ns == at(749)
    read(750, delayed=True)(continuity)
    assert continuity.through_ns == at(500)


def test_stamps_never_go_back() -> None:
    """A wall clock that is put back gives the latest time again."""
    continuity = Continuity(START_NS)
    assert continuity.latest_ns == 0
    assert [continuity.stamp(ns) for ns in (5, 3, 6)] == [5, 5, 6]
    assert (continuity.read(4, True), continuity.latest_ns, continuity.received_ns) == (6, 6, 6)
