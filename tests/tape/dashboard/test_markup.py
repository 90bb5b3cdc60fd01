"""Tables, the timeline, and how figures are written."""

import math
from dataclasses import replace

import pytest
from generated_session import HOSTILE, Generated

from tape.dashboard.archive_markup import calendar, sessions_table
from tape.dashboard.markup import batches_table, gaps_table, prints_table, quarantine_table, short_name, timeline
from tape.dashboard.metrics import exposition
from tape.dashboard.model import DayShown, Print, SessionShown, ShownGap
from tape.dashboard.wording import clock, figures, health, milliseconds, number, seconds, silence, size
from tasks.records.trade import NS_PER_S
from tasks.shown import countdown


def trade(price: str, **changes: object) -> Print:
    first = Print(symbol="A", ts_event_ns=0, ts_recv_ns=5_000_000, price=price, size="100", conditions=())
    return replace(first, **changes)  # type: ignore[arg-type]


def test_nothing_from_a_feed_is_read_as_html() -> None:
    """Symbols, prices, sizes, conditions, reasons, and names of batches are escaped, control characters shown."""
    evil = HOSTILE + "\x1b"
    made = [
        prints_table([trade("1.5", size=evil, conditions=(evil,))]),
        gaps_table([ShownGap(symbols=(evil,), start_ns=0, end_ns=None, reason=evil)], 10),
        batches_table([replace(Generated().board().batches[0], name=evil)]),
        quarantine_table({evil: 1}),
        timeline(replace(Generated().board(), gaps=(ShownGap(symbols=(), start_ns=0, end_ns=1, reason=evil),))),
        sessions_table([], "", {evil: {evil}}),
    ]
    for html in made:
        assert "<img" not in html
        assert "\x1b" not in html
        assert "&lt;img" in html
        assert 'onerror="' not in html


def test_an_arrow_tells_the_direction_to_the_trade_before() -> None:
    """Newest first: a rise is an up arrow, a fall a down arrow, the same price and the oldest none."""
    html = prints_table([trade("2.0"), trade("2.5"), trade("2.5"), trade("1.0")])
    assert [cell.split("<")[0] for cell in html.split("<i>")[1:]] == ["▼", "", "▲", ""]


def test_open_gaps_come_first() -> None:
    """An open gap is on top, and said to be open with its length so far; then the newest."""
    gaps = [
        ShownGap(symbols=("A",), start_ns=start * NS_PER_S, end_ns=end, reason=f"reason {start}")
        for start, end in ((1, 2 * NS_PER_S), (5, None), (9, 11 * NS_PER_S))
    ]
    html = gaps_table(gaps, 70 * NS_PER_S)
    assert [part[:1] for part in html.split("reason ")[1:]] == ["5", "9", "1"]
    assert "open, 1 m 05 s" in html
    assert html.count('data-gap="closed"') == 2


def test_a_batch_shows_how_far_it_is() -> None:
    """One filled dot for each stage passed, and its word."""
    html = batches_table(Generated().board().batches)
    assert "●●●●●</span> uploaded" in html
    assert "●○○○○</span> recording" in html
    assert short_name("20261124T143000Z-9f3c01ab-01-000003") == "01-000003"


def test_the_timeline_reaches_until_now() -> None:
    """What has passed is a share of the session; a gap has its place; an open gap ends now."""
    board = Generated(age_s=665, moving=False).board()
    html = timeline(board)
    share = 1000 * (board.now_ns - board.start_ns) / (board.end_ns - board.start_ns)
    assert f'width="{share:.1f}" height="10"' in html
    assert html.count("<rect") == 1 + len(board.gaps)
    assert html.count('data-gap="open"') == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (math.nan, "–"), (0.04, "0.0 s"), (9.96, "10.0 s"), (12.6, "13 s"), (64, "1 m 04 s"),
     (7_500, "2 h 05 m"), (275_000, "3 d 04 h")],
)  # fmt: skip
def test_durations_have_two_units(value: float | None, text: str) -> None:
    """From tenths of a second to days."""
    assert seconds(value) == text


def test_figures_are_written_alike() -> None:
    """Thousands, bytes, milliseconds, countdowns, and times of day."""
    assert (number(1234567), number(1.5, 3), number(None)) == ("1,234,567", "1.500", "–")
    assert (size(512), size(1536), size(412 << 30), size(3 << 40)) == ("512 B", "1.5 KiB", "412 GiB", "3.0 TiB")
    assert (milliseconds(3.14159), milliseconds(123.4), milliseconds(None)) == ("3.1", "123", "–")
    assert (countdown(3_661.4), countdown(-5)) == ("1:01:01", "0:00:00")
    assert (clock(1_800_000_000_123_456_789), clock(1_800_000_000_123_456_789, 3)) == ("08:00:00", "08:00:00.123")
    assert [silence(value) for value in (None, 0.4, 9.9, 14, 59, 125)] == [None, 0, 9, 10, 55, 120]


def test_the_figures_are_those_of_the_status() -> None:
    """Queue, reconnects, time left, gaps, and archived batches come from what the recorder and archiver wrote."""
    board = Generated(age_s=665, moving=False).board()
    shown = figures(board)
    assert shown["queue"] == "1 %"
    assert shown["reconnects"] == str(len(board.gaps))
    assert shown["left"] == countdown((board.end_ns - board.now_ns) / NS_PER_S)
    assert shown["batches"] == "7 / 10"
    assert shown["lag"] == "41 · 88 · 140"
    ended = figures(replace(board, health="ended", status=None))
    assert (ended["left"], ended["queue"], ended["reconnects"]) == ("–", "–", "–")


def test_a_recorder_without_a_connection_is_not_shown_as_up() -> None:
    """While it reconnects the state says so; stale and ended are said as they are."""
    board = Generated(moving=False).board()
    assert board.status is not None
    assert health(board) == ("up", "recording")
    assert health(replace(board, status=replace(board.status, state="reconnecting"))) == ("down", "reconnecting")
    assert health(replace(board, health="stale")) == ("stale", "stale")


def test_the_calendar_tells_each_state_by_a_word() -> None:
    """Each day has its word and sign; only days with a session are links, below the prefix."""
    states = ("complete", "gaps", "short", "missing", "closed", "unknown")
    days = [
        DayShown(date=f"2026-11-{n + 1:02}", state=state, share=0.5 if n < 3 else None, trades=n, is_recording=n == 2,
                 sessions=() if state in ("missing", "closed") else ("s",))
        for n, state in enumerate(states)
    ]  # fmt: skip
    html = calendar(days, "/tape")
    for word in ("complete", "with gaps", "short of market hours", "missing", "no market hours", "no record here"):
        assert f": {word}, " in html
    assert html.count('<a class="day') == 4
    assert 'href="/tape/archive/2026-11-01"' in html
    assert "50.0 %" in html
    assert "being recorded" in html
    assert html.count("<b>30</b>") == 1
    assert "<b>31</b>" not in html


def test_sessions_are_listed_newest_first() -> None:
    """With whether the ledger balances; those that only the bucket has are below."""
    one = SessionShown(
        session="20261124T143000Z-9f3c01ab", days=("2026-11-24",), outcome="complete", trades=5, gaps=1, batches=3,
        archived=2, uploaded=1, coverage=0.5, balances=False,
    )  # fmt: skip
    html = sessions_table([one, replace(one, session="20261125T143000Z-9f3c01ab")], "", {"20200101T000000Z-00": {"d"}})
    assert html.index("20261125") < html.index("20261124") < html.index("20200101")
    assert "NO" in html
    assert "remote=1" in html


def test_the_metrics_are_those_of_the_board() -> None:
    """Text that Prometheus reads: each sample once per session, labels escaped, what is unknown left out."""
    board = Generated(age_s=665, moving=False).board()
    text = exposition([board, replace(board, session='a"\\\n', status=None, lag_p50_ms=None)])
    lines = text.splitlines()
    labels = f'{{session="{board.session}",feed="finnhub"}}'
    assert f"tape_trades_total{labels} {board.trades}" in lines
    assert f"tape_gaps_open{labels} 1" in lines
    assert f'tape_lag_seconds{{session="{board.session}",feed="finnhub",quantile="0.5"}} 0.041' in lines
    assert sum(line.startswith("tape_queue_bytes{") for line in lines) == 1
    assert 'session="a\\"\\\\\\n"' in text
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
