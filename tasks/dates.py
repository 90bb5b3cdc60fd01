"""Which date is it at some moment in a time zone, and from when until when does a date last there?"""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from tasks.trade import NS_PER_S


def date_in(zone: str, ns: int) -> str:
    """The date (YYYY-MM-DD) that a UTC time in ns falls on in that zone."""
    return datetime.fromtimestamp(ns // NS_PER_S, ZoneInfo(zone)).strftime("%Y-%m-%d")


def span_of(day: str, zone: str) -> tuple[int, int]:
    """From when until when (UTC ns) that date (YYYY-MM-DD) lasts in that zone."""
    first = date.fromisoformat(day)
    midnights = (datetime.combine(each, time(), ZoneInfo(zone)) for each in (first, first + timedelta(days=1)))
    start, end = (int(midnight.timestamp()) * NS_PER_S for midnight in midnights)
    return start, end


def dates_between(zone: str, start_ns: int, end_ns: int) -> list[str]:
    """The dates (YYYY-MM-DD) in that zone that a stretch of time (UTC ns) touches, in order."""
    first, last = (date.fromisoformat(date_in(zone, ns)) for ns in (start_ns, max(start_ns, end_ns - 1)))
    return [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]


def utc_text(ns: int) -> str:
    """A UTC time in ns as `2026-11-26 14:30:00.000Z`, in ms."""
    return datetime.fromtimestamp(ns // NS_PER_S, UTC).strftime("%Y-%m-%d %H:%M:%S") + f".{ns // 10**6 % 1000:03d}Z"
