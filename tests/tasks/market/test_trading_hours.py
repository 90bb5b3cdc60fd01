"""The parts of an interval within an exchange's trading hours, across days."""

import datetime
from zoneinfo import ZoneInfo

import pytest

from tasks.errors import SettingsError
from tasks.market.hours import trading_hours

NEW_YORK = ZoneInfo("America/New_York")


def at(text: str, zone: ZoneInfo = NEW_YORK) -> int:
    return int(datetime.datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()) * 1_000_000_000


def hours(start_ns: int, end_ns: int, calendar: str = "XNYS", zone: ZoneInfo = NEW_YORK) -> list[tuple[str, str]]:
    """The result of `trading_hours` in local time."""
    found = trading_hours(start_ns, end_ns, calendar)
    text = [[f"{datetime.datetime.fromtimestamp(ns / 1e9, zone):%m-%d %H:%M}" for ns in each] for each in found]
    return [(opens, closes) for opens, closes in text]


@pytest.mark.parametrize(
    ("start", "end", "days"),
    [
        ("2026-11-24T10:00", "2026-11-24T11:00", ["11-24 16:00"]),
        ("2026-11-24T00:00", "2026-11-24T23:59", ["11-24 16:00"]),
        ("2026-11-23T15:00", "2026-11-25T10:00", ["11-23 16:00", "11-24 16:00", "11-25 16:00"]),
        ("2026-11-25T15:00", "2026-11-27T10:00", ["11-25 16:00", "11-27 13:00"]),
        ("2026-11-27T12:59", "2026-11-30T09:31", ["11-27 13:00", "11-30 16:00"]),
        ("2026-11-27T13:00", "2026-11-30T09:30", []),
        ("2026-11-28T00:00", "2026-11-29T23:00", []),
        ("2026-12-31T15:00", "2027-01-04T10:00", ["12-31 16:00", "01-04 16:00"]),
    ],
    ids=[
        "within a day", "a whole day", "three days", "over a holiday to an early close", "over a weekend",
        "from a close to an opening", "a weekend", "over New Year",
    ],
)  # fmt: skip
def test_the_hours_are_whole_days_that_the_time_touches(start: str, end: str, days: list[str]) -> None:
    """Intervals are whole trading days in order; a day is over at its close and ahead at its opening."""
    assert hours(at(start), at(end)) == [(f"{each[:5]} 09:30", each) for each in days]


@pytest.mark.parametrize(("day", "minutes_utc"), [("2026-03-06", 870), ("2026-03-09", 810), ("2026-11-02", 870)])
def test_the_hours_follow_the_clocks_of_the_exchange(day: str, minutes_utc: int) -> None:
    """09:30 in New York is 14:30 UTC, and 13:30 UTC in summer."""
    ((opens, closes),) = trading_hours(at(f"{day}T00:00"), at(f"{day}T23:00"))
    assert opens // 60_000_000_000 % 1440 == minutes_utc
    assert closes - opens == 390 * 60_000_000_000


def test_a_day_that_begins_the_evening_before_is_found_on_that_evening() -> None:
    """Wednesday's futures day is found from Tuesday evening, when it opens, to its end."""
    for start, end in (("2026-11-17T18:30", "2026-11-17T19:00"), ("2026-11-18T15:00", "2026-11-18T16:00")):
        found = hours(at(start), at(end), "us_futures")
        assert [opens for opens, _ in found] == ["11-17 18:00"]


def test_a_market_that_never_closes_has_whole_days_of_utc() -> None:
    """A 24/7 weekend has one day after another without gaps."""
    utc = ZoneInfo("UTC")
    start_ns, end_ns = at("2026-11-27T12:00", utc), at("2026-11-29T12:00", utc)
    found = trading_hours(start_ns, end_ns, "24/7")
    assert (found[0][0], found[-1][1]) == (at("2026-11-27T00:00", utc), at("2026-11-30T00:00", utc))
    assert [closes for _, closes in found[:-1]] == [opens for opens, _ in found[1:]]


def test_the_hours_of_a_break_are_none() -> None:
    """An interval within Tokyo's lunch break touches neither half of the day."""
    tokyo = ZoneInfo("Asia/Tokyo")
    assert hours(at("2026-11-26T11:30", tokyo), at("2026-11-26T12:30", tokyo), "XTKS", tokyo) == []
    assert hours(at("2026-11-26T11:29", tokyo), at("2026-11-26T12:30", tokyo), "XTKS", tokyo) == [
        ("11-26 09:00", "11-26 11:30")
    ]


def test_days_that_no_calendar_tells_of_have_no_hours_and_the_others_have_theirs() -> None:
    """An interval beyond a calendar's last year gives the days that are known."""
    shanghai = ZoneInfo("Asia/Shanghai")
    found = hours(at("2026-12-31T10:00", shanghai), at("2027-01-05T10:00", shanghai), "XSHG", shanghai)
    assert {opens[:5] for opens, _ in found} == {"12-31"}


def test_a_calendar_that_does_not_exist_is_a_wrong_setting() -> None:
    """An unknown exchange raises an error."""
    with pytest.raises(SettingsError, match="not an exchange calendar"):
        trading_hours(0, 1, "XNOPE")
