"""The parts of a trading day: before the open, regular hours, after the close."""

import datetime
from zoneinfo import ZoneInfo

import pytest

from tasks.market.hours import market_sessions

NEW_YORK = ZoneInfo("America/New_York")


def at(text: str, zone: ZoneInfo = NEW_YORK) -> int:
    return int(datetime.datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()) * 1_000_000_000


def by_clock(ns: int) -> str:
    return f"{datetime.datetime.fromtimestamp(ns / 1e9, NEW_YORK):%H:%M}"


@pytest.mark.parametrize(
    ("day", "calendar", "parts"),
    [
        ("2026-11-24", "XNYS", [("pre", "04:00", "09:30"), ("regular", "09:30", "16:00"), ("post", "16:00", "20:00")]),
        ("2026-11-24", "NYSE", [("pre", "04:00", "09:30"), ("regular", "09:30", "16:00"), ("post", "16:00", "20:00")]),
        ("2026-11-26", "XNYS", []),  # Thanksgiving
        ("2026-11-27", "XNYS", [("pre", "04:00", "09:30"), ("regular", "09:30", "13:00"), ("post", "13:00", "17:00")]),
        ("2026-11-28", "XNYS", []),  # a Saturday
        ("2026-11-24", "XETR", [("regular", "03:00", "11:30")]),
    ],
)
def test_a_day_has_the_parts_of_its_calendar(day: str, calendar: str, parts: list[tuple[str, str, str]]) -> None:
    """Holidays have none, an early close moves the trading after it, and only US stocks trade before and after."""
    found = market_sessions(at(f"{day}T00:00"), at(f"{day}T23:59"), calendar)
    clock = [(part.name, by_clock(part.start_ns), by_clock(part.end_ns)) for part in found]
    assert clock == parts
    assert {part.date for part in found} <= {day}


def test_hours_follow_the_clock_of_the_exchange() -> None:
    """After the change to winter time the open is an hour later in UTC."""
    opens = [
        part.start_ns
        for part in market_sessions(at("2026-10-30T12:00"), at("2026-11-02T12:00"))
        if part.name == "regular"
    ]
    assert opens == [at("2026-10-30T13:30", ZoneInfo("UTC")), at("2026-11-02T14:30", ZoneInfo("UTC"))]
