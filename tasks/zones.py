"""Computes the dates and days of a time zone.

Symbols that never close have UTC days; the others have days in their exchange's time zone.
"""

from datetime import date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from tasks.records.trade import NS_PER_S
from tasks.spans import Span

UTC = "UTC"


@lru_cache(maxsize=256)
def day_span(day: str, zone: str) -> Span:
    """Return the start and end (UTC ns) of a day (YYYY-MM-DD) in a time zone."""
    first = date.fromisoformat(day)
    midnights = (datetime.combine(each, datetime.min.time(), ZoneInfo(zone)) for each in (first, first + timedelta(1)))
    start_ns, end_ns = (int(midnight.timestamp()) * NS_PER_S for midnight in midnights)
    return start_ns, end_ns


def date_in(zone: str, ns: int) -> str:
    """Return the date (YYYY-MM-DD) of a UTC time in ns in a time zone."""
    return datetime.fromtimestamp(ns // NS_PER_S, ZoneInfo(zone)).strftime("%Y-%m-%d")


def dates_between(zone: str, start_ns: int, end_ns: int) -> list[str]:
    """Return the dates (YYYY-MM-DD) in a time zone that an interval (UTC ns) touches, in order."""
    first, last = (date.fromisoformat(date_in(zone, ns)) for ns in (start_ns, max(start_ns, end_ns - 1)))
    return [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]


def utc_text(ns: int) -> str:
    """Format a UTC time in ns as `2026-11-26 14:30:00.000Z`."""
    return f"{datetime.fromtimestamp(ns // NS_PER_S, ZoneInfo(UTC)):%Y-%m-%d %H:%M:%S}.{ns // 10**6 % 1000:03d}Z"
