"""Is an exchange's day recorded from its open to its close, and no other day?"""

import datetime as dt
from collections.abc import Iterator
from typing import Any
from zoneinfo import ZoneInfo

import exchange_calendars as calendars
import pandas as pd
import pytest

from tasks.manifest import Day, read
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

    class Exchange(calendars.ExchangeCalendar):
        name = "TAPETEST"
        tz = zone
        open_times = ((None, dt.time(1)),)
        close_times = ((None, dt.time(23)),)
        weekmask = "1111111"

        @property
        def special_closes_adhoc(self) -> Any:
            return [(here.time().replace(second=0, microsecond=0), pd.DatetimeIndex([str(here.date())]))]

    calendars.register_calendar_type("TAPETEST", Exchange, force=True)
    yield "TAPETEST"
    calendars.deregister_calendar("TAPETEST")


def run_of(tape: Any, state: Any) -> dict[str, Any]:
    """The run that ended in that state, as the API has it."""
    (run,) = tape.server.ask(
        "flow_runs/filter", {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
    )
    found: dict[str, Any] = run
    return found


@pytest.mark.parametrize(("day", "why"), [(HOLIDAY, "does not trade"), (PAST, "over already")])
def test_a_day_without_trading_ahead_is_skipped(tape: Any, day: dt.date, why: str) -> None:
    """A holiday, and a day that is over, end as Completed, named Skipped, with the calendar and the day; no session."""
    from flows.trading_day import trading_day

    with tape.here(TAPE_SYMBOLS="SPY"):
        run = run_of(tape, trading_day(date=day, return_state=True))
    assert run["name"] == f"trading day {day}"
    assert (run["state"]["type"], run["state"]["name"]) == ("COMPLETED", "Skipped")
    for part in (why, "XNYS", str(day)):
        assert part in run["state"]["message"]
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
        }
        with tape.here(TAPE_SYMBOLS="SPY NVDA", **settings):
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
