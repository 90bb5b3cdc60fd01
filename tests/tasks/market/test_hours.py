"""The hours of an exchange: holidays, early closes, and daylight saving changes."""

import datetime
import subprocess
import sys
from contextlib import suppress
from zoneinfo import ZoneInfo

import pytest
from exchange_calendars import get_calendar_names

from tasks.errors import SettingsError
from tasks.market.hours import (
    TradingDay,
    date_in,
    exchange_zone,
    is_covered,
    next_open,
    trading_day_for,
    trading_hours,
)

NEW_YORK = ZoneInfo("America/New_York")


def instant(text: str, zone: ZoneInfo = NEW_YORK) -> int:
    return int(datetime.datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()) * 1_000_000_000


def day(text: str, before_open_ns: int = 0, after_close_ns: int = 0) -> TradingDay:
    found = trading_day_for(datetime.date.fromisoformat(text), "XNYS", before_open_ns, after_close_ns)
    assert found is not None
    return found


def test_a_plain_day_trades_from_half_past_nine_to_four() -> None:
    """A regular NYSE day is 09:30 to 16:00 in New York, without an early close."""
    assert day("2026-11-24") == TradingDay(
        datetime.date(2026, 11, 24), "XNYS", instant("2026-11-24T09:30"), instant("2026-11-24T16:00"), False
    )


@pytest.mark.parametrize(
    "date",
    ["2026-11-26", "2026-12-25", "2026-11-28", "2026-11-29", "2026-07-03"],
    ids=["Thanksgiving", "Christmas", "Saturday", "Sunday", "Independence Day observed"],
)
def test_holidays_and_weekends_have_no_trading_day(date: str) -> None:
    """A date on which the exchange is closed gives None."""
    assert trading_day_for(datetime.date.fromisoformat(date)) is None


@pytest.mark.parametrize("date", ["2026-11-27", "2026-12-24"], ids=["after Thanksgiving", "Christmas Eve"])
def test_early_closes_end_at_one(date: str) -> None:
    """Half days around a holiday close at 13:00 in New York and are marked as early closes."""
    found = day(date)
    assert (found.close_ns, found.early_close) == (instant(f"{date}T13:00"), True)


@pytest.mark.parametrize(("date", "ends"), [("2026-11-24", "20:00"), ("2026-11-27", "17:00")])
def test_extended_hours_reach_from_four_to_eight_or_five(date: str, ends: str) -> None:
    """With the extended offsets a day runs from 04:00 to 20:00, on an early close to 17:00."""
    found = day(date, before_open_ns=19_800 * 10**9, after_close_ns=14_400 * 10**9)
    assert (found.open_ns, found.close_ns) == (instant(f"{date}T04:00"), instant(f"{date}T{ends}"))


@pytest.mark.parametrize(
    ("before", "after", "hour_shift"), [("2026-03-06", "2026-03-09", -1), ("2026-10-30", "2026-11-02", 1)]
)
def test_the_opening_follows_new_yorks_clock_change(before: str, after: str, hour_shift: int) -> None:
    """Across a daylight saving change the opening stays 09:30 in New York and moves by an hour in UTC."""
    of_day = 86_400_000_000_000
    moved = day(after).open_ns % of_day - day(before).open_ns % of_day
    assert moved == hour_shift * 3_600_000_000_000
    assert day(after).open_ns == instant(f"{after}T09:30")


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        ("2026-11-24T09:29", "2026-11-24T09:30"),
        ("2026-11-24T09:30", "2026-11-25T09:30"),
        ("2026-11-25T17:00", "2026-11-27T09:30"),
        ("2026-11-27T13:00", "2026-11-30T09:30"),
        ("2026-12-31T23:59", "2027-01-04T09:30"),
    ],
)
def test_the_next_opening_skips_nights_weekends_and_holidays(now: str, opens: str) -> None:
    """The next opening is strictly later, on the next day that trades, also in the next year."""
    assert next_open(instant(now)) == instant(opens)


def test_a_market_that_never_closes_is_open_all_day() -> None:
    """The calendar 24/7 gives whole UTC days, including weekends."""
    utc = ZoneInfo("UTC")
    found = trading_day_for(datetime.date(2026, 11, 28), "24/7")
    assert found is not None
    assert (found.open_ns, found.close_ns) == (instant("2026-11-28T00:00", utc), instant("2026-11-29T00:00", utc))


def test_the_date_of_an_instant_is_that_of_the_exchanges_zone() -> None:
    """At 23:59:59 in New York it is still that day there, whatever day it is in UTC."""
    zone = exchange_zone("XNYS")
    midnight = instant("2026-11-25T00:00")
    assert zone == NEW_YORK
    assert (date_in(zone, midnight - 1), date_in(zone, midnight)) == ("2026-11-24", "2026-11-25")


def test_days_of_long_ago_are_known() -> None:
    """A trading day in 2013 is known."""
    assert day("2013-10-07").open_ns == instant("2013-10-07T09:30")


@pytest.mark.parametrize(
    ("date", "calendar", "says"),
    [("2026-11-24", "XNYC", "XNYS"), ("1950-01-03", "XKRX", "1950"), ("1500-01-04", "XNYS", "1500")],
)
def test_an_unknown_calendar_or_year_is_a_wrong_setting(date: str, calendar: str, says: str) -> None:
    """The error names the unknown calendar and valid ones."""
    with pytest.raises(SettingsError, match=says) as caught:
        trading_day_for(datetime.date.fromisoformat(date), calendar)
    assert "give" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("calendar", ["xnys", "Xnys", "nasdaq", "US_Futures"])
def test_a_calendar_is_known_in_any_case(calendar: str) -> None:
    """A calendar's name is case-insensitive."""
    assert exchange_zone(calendar).key in {"America/New_York", "America/Chicago"}


def test_importing_the_hours_does_not_import_the_calendars() -> None:
    """The calendar library, which takes a second to import, is loaded only if needed."""
    loaded = "import sys, tasks.market.hours; print('exchange_calendars' in sys.modules, 'pandas' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert printed.stdout.split() == ["False", "False"]


TOKYO = ZoneInfo("Asia/Tokyo")


def test_trading_hours_leave_out_the_lunch_break() -> None:
    """Tokyo has two intervals, before and after lunch, whatever part of the day is requested."""
    noon = instant("2026-11-26T12:00", TOKYO)
    hours = trading_hours(instant("2026-11-26T09:30", TOKYO), noon + 3_600_000_000_000, "XTKS")
    assert hours == (
        (instant("2026-11-26T09:00", TOKYO), instant("2026-11-26T11:30", TOKYO)),
        (instant("2026-11-26T12:30", TOKYO), instant("2026-11-26T15:30", TOKYO)),
    )
    assert not any(start <= noon < end for start, end in hours)


@pytest.mark.parametrize("calendar", ["XSHG", "XSES", "XBOM"])
def test_the_last_day_that_a_calendar_covers_can_be_recorded(calendar: str) -> None:
    """Trading hours of the year's last day do not need a year that the calendar does not cover."""
    zone = exchange_zone(calendar)
    start_ns = instant("2026-12-31T10:00", zone)
    assert trading_day_for(datetime.date(2026, 12, 31), calendar) is not None
    assert trading_hours(start_ns, start_ns + 3_600_000_000_000, calendar)
    assert not is_covered(datetime.date(2027, 1, 4), calendar)
    with pytest.raises(SettingsError, match="2027"):
        trading_day_for(datetime.date(2027, 1, 4), calendar)


@pytest.mark.parametrize("calendar", ["ASEX", "XBEL", "XBSE", "XCYS"])
def test_a_calendar_that_the_library_cannot_compute_costs_only_its_hours(calendar: str) -> None:
    """Its time zone is known and a session can be recorded; asking for a trading day is a one-line error."""
    now_ns = instant("2026-11-26T12:00")
    assert trading_hours(now_ns, now_ns + 1, calendar) == ()
    with pytest.raises(SettingsError, match="cannot compute") as caught:
        trading_day_for(datetime.date(2026, 11, 26), calendar)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_calendar_raises_anything_but_a_setting_error() -> None:
    """Every calendar gives hours or a one-line error, on an ordinary day and at its limits."""
    for calendar in get_calendar_names(include_aliases=False):
        zone = exchange_zone(calendar)
        for text in ("2026-11-26", "2026-12-31", "2027-01-04"):
            noon = instant(f"{text}T12:00", zone)
            trading_hours(noon, noon + 1, calendar)
            for ask in (lambda c=calendar, t=text: trading_day_for(datetime.date.fromisoformat(t), c),
                        lambda c=calendar, n=noon: next_open(n, c)):  # fmt: skip
                with suppress(SettingsError):
                    ask()
