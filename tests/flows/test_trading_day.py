"""Is an exchange's day recorded from its open to its close, and no other day?"""

import datetime as dt
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any
from zoneinfo import ZoneInfo

import exchange_calendars as calendars
import pandas as pd
import pytest

from tasks.records.manifest import Day, read
from tasks.replay.generate import generate
from tasks.replay.run import serve_in_thread
from tasks.replay.server import ReplayOptions

HOLIDAY, PAST = dt.date(2024, 11, 28), dt.date(2024, 11, 27)


@pytest.fixture
def closing_early() -> Iterator[str]:
    """An exchange of the test's own that is open now, and today closes early, at the beginning of this minute."""
    now = dt.datetime.now(dt.UTC)
    # Where it is about noon, so that the day does not end on the way.
    ahead = round(12 - now.hour - now.minute / 60)
    zone = ZoneInfo(f"Etc/GMT{-ahead:+d}")
    here = now.astimezone(zone)

    # The library keeps a calendar that it has built, also when its name is registered anew: each gets its own name.
    called = f"TAPETEST{secrets.token_hex(4).upper()}"

    class Exchange(calendars.ExchangeCalendar):
        name = called
        tz = zone
        open_times = ((None, dt.time(1)),)
        close_times = ((None, dt.time(23)),)
        weekmask = "1111111"

        @property
        def special_closes_adhoc(self) -> Any:
            return [(here.time().replace(second=0, microsecond=0), pd.DatetimeIndex([str(here.date())]))]

    calendars.register_calendar_type(called, Exchange)
    yield called
    calendars.deregister_calendar(called)


def run_of(tape: Any, state: Any) -> dict[str, Any]:
    """The run that ended in that state, as the API has it."""
    (run,) = tape.server.ask(
        "flow_runs/filter", {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
    )
    found: dict[str, Any] = run
    return found


def test_a_holiday_is_skipped(tape: Any) -> None:
    """A day without trading ends as Completed, named Skipped, with the calendar and the day; no session."""
    from flows.trading_day import trading_day

    with tape.here(TAPE_SYMBOLS="SPY"):
        run = run_of(tape, trading_day(date=HOLIDAY, return_state=True))
    assert run["name"] == f"trading day {HOLIDAY}"
    assert (run["state"]["type"], run["state"]["name"]) == ("COMPLETED", "Skipped")
    for part in ("does not trade", "XNYS", str(HOLIDAY)):
        assert part in run["state"]["message"]
    assert not list(tape.data.glob("sessions/*"))


def test_a_day_that_was_over_before_the_run_began_is_not_green_unless_it_was_recorded(tape: Any) -> None:
    """A run that comes too late fails where nobody recorded the day, and says so; no session is begun."""
    from flows.trading_day import trading_day

    with tape.here(TAPE_SYMBOLS="SPY"):
        run = run_of(tape, trading_day(date=PAST, return_state=True))
    assert run["state"]["type"] == "FAILED"
    assert f"{PAST} was over before this run began, and had not been recorded" in run["state"]["message"]
    assert not list(tape.data.glob("sessions/*"))


def test_a_trading_day_is_recorded_until_its_own_early_close(tape: Any, closing_early: str) -> None:
    """A run that a schedule starts records until the calendar's close of that very day, plus the margin."""
    from flows.trading_day import trading_day

    now = dt.datetime.now(dt.UTC)
    after_s = now.second + 12  # Time for a busy machine to start the flow and the recorder.
    with serve_in_thread(generate(11, 60), ReplayOptions(speed=1.0)) as server:
        settings = {
            "TAPE_CALENDAR": closing_early,
            "TAPE_CLOSE_AFTER": f"{after_s}s",
            "TAPE_BATCH_FOR": "1s",
            "TAPE_FEED_URL": server.url,
            "TAPE_MIN_COVERAGE": "0%",  # The exchange has been open for hours.
        }
        with tape.here(TAPE_SYMBOLS="SPY,NVDA", **settings):
            state = trading_day(return_state=True)
            ledger = state.result()
    close = now.replace(second=0, microsecond=0) + dt.timedelta(seconds=after_s)
    assert (ledger.record.outcome, ledger.balances) == ("complete", True)
    assert ledger.record.deadline_ns == int(close.timestamp()) * 10**9
    assert ledger.record.ended_ns >= ledger.record.deadline_ns
    assert ledger.trades.archived > 0
    closed = [read(path, Day) for path in tape.data.glob("days/*/*/_*.day.json")]
    assert sum(day.rows for day in closed) == ledger.trades.archived
    assert tape.verdict().holds
    today = now.astimezone(calendars.get_calendar(closing_early).tz).date()
    run = run_of(tape, state)
    assert (run["name"], run["state"]["name"]) == (f"trading day {today}", "Completed")


@pytest.fixture
def open_for(tape: Any) -> Iterator[Callable[..., dict[str, str]]]:
    """Settings of a day that began so many seconds ago and ends in so many, on an exchange of the test's own."""

    registered: list[str] = []

    def settings(ago_s: int, ahead_s: int, url: str, **more: str) -> dict[str, str]:
        now = dt.datetime.now(dt.UTC)
        zone = ZoneInfo(f"Etc/GMT{-round(12 - now.hour - now.minute / 60):+d}")
        begins, ends = (
            (now.astimezone(zone) + dt.timedelta(seconds=seconds)).replace(microsecond=0)
            for seconds in (-ago_s, ahead_s)
        )

        # The library keeps a calendar that it has built, also when its name is registered anew: each gets its own name.
        called = f"TAPETEST{secrets.token_hex(4).upper()}"

        class Exchange(calendars.ExchangeCalendar):
            name = called
            tz = zone
            open_times = ((None, begins.time().replace(second=0)),)
            close_times = ((None, ends.time().replace(second=0)),)
            weekmask = "1111111"

        calendars.register_calendar_type(called, Exchange)
        registered.append(called)
        return {
            "TAPE_CALENDAR": called, "TAPE_FEED_URL": url, "TAPE_BATCH_FOR": "1s", "TAPE_OPEN_BEFORE": "0s",
            "TAPE_CLOSE_AFTER": f"{ends.second}s", "TAPE_SYMBOLS": "SPY,NVDA", **more,
        }  # fmt: skip

    yield settings
    for called in registered:
        calendars.deregister_calendar(called)


@pytest.mark.slow
def test_a_day_whose_recording_began_late_fails_with_its_coverage(
    tape: Any, open_for: Callable[..., dict[str, str]]
) -> None:
    """What of market hours was over before the recording began is missing: below the least coverage the run fails."""
    from flows.trading_day import trading_day

    with (
        serve_in_thread(generate(21, 60), ReplayOptions(speed=1.0)) as server,
        tape.here(**open_for(300, 15, server.url)),
    ):
        run = run_of(tape, trading_day(return_state=True))
    assert run["state"]["type"] == "FAILED"
    assert re.search(r"coverage of market hours is \d{1,2}\.\d%, 2 of 2 symbols are below 95%", run["state"]["message"])
    assert "began late" in run["state"]["message"]


@pytest.mark.slow
def test_a_day_without_a_trade_fails(tape: Any, open_for: Callable[..., dict[str, str]]) -> None:
    """A feed that is connected all the time and sends nothing is no recorded day."""
    from flows.trading_day import trading_day

    with (
        serve_in_thread([], ReplayOptions(speed=1.0)) as server,
        tape.here(**open_for(60, 10, server.url, TAPE_MIN_COVERAGE="0%")),
    ):
        run = run_of(tape, trading_day(return_state=True))
    assert run["state"]["type"] == "FAILED"
    assert "no trade was received" in run["state"]["message"]


@pytest.mark.slow
def test_a_day_joins_a_session_that_was_begun_by_hand_and_goes_on_to_its_own_end(
    tape: Any, until: Any, open_for: Callable[..., dict[str, str]]
) -> None:
    """A session of a few seconds, of another symbol, is on when the day begins: one recorder serves both to the end."""
    from flows.trading_day import trading_day

    with serve_in_thread(generate(22, 120), ReplayOptions(speed=1.0)) as server:
        by_hand = tape.start("record", "TSLA", "--for", "12s", "--feed-url", server.url, "--batch-for", "1s", "--json")
        until(lambda: tape.status().get("state") == "recording")
        with tape.here(**open_for(60, 20, server.url, TAPE_MIN_COVERAGE="0%")):
            ledger = trading_day()
        short = tape.printed(by_hand)
    (folder,) = tape.data.glob("sessions/*")
    assert ledger.record.session == short["session"] == folder.name
    assert (ledger.record.outcome, ledger.record.connections, ledger.balances) == ("complete", 1, True)
    hand, day = sorted(ledger.record.requests, key=lambda request: request.until_ns)
    assert (hand.symbols, day.symbols) == (("TSLA",), ("SPY", "NVDA"))
    assert ledger.record.ended_ns >= day.until_ns > hand.until_ns
    assert {"TSLA", "SPY", "NVDA"} == set(ledger.per_symbol)
    assert tape.verdict().holds
