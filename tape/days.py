"""Days and time zones as people write them, and times as they read them."""

import datetime as dt
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from flows.settings import Settings
from tape import report
from tasks.errors import SettingsError
from tasks.records.trade import NS_PER_S

_MOST_DAYS = 3_700


def day_of(text: str, place: str, settings: Settings) -> str:
    """Parse a day (YYYY-MM-DD); today and yesterday are the exchange's. Raises SettingsError."""
    from tasks.market.hours import exchange_zone

    ago = {"today": 0, "yesterday": 1}.get(text.strip().lower())
    if ago is not None:
        return (dt.datetime.now(exchange_zone(settings.calendar)).date() - dt.timedelta(days=ago)).isoformat()
    try:
        return dt.date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise SettingsError(
            f"{place}: {text[:40]!r} is not a day; write YYYY-MM-DD, today, or yesterday; `tape ls` lists days"
        ) from error


def days_of(text: str | None, place: str, settings: Settings) -> tuple[str, ...]:
    """Parse a day, or a range of days such as 2026-11-02..2026-11-24; None stands for all. Raises SettingsError."""
    if text is None:
        return ()
    first, dots, last = text.partition("..")
    start = dt.date.fromisoformat(day_of(first, place, settings))
    end = dt.date.fromisoformat(day_of(last, place, settings)) if dots else start
    count = (end - start).days + 1
    if not 0 < count <= _MOST_DAYS:
        raise SettingsError(f"{place}: {text[:40]} is not a range of days; write the earlier day first: A..B")
    return tuple((start + dt.timedelta(days=each)).isoformat() for each in range(count))


def zone_named(name: str, place: str = "--tz") -> ZoneInfo:
    """Return a time zone. Raises SettingsError, with what is near, if there is none of that name."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError) as error:
        known = report.did_you_mean(name, available_timezones()) or "use a name such as America/New_York"
        raise SettingsError(f"{place}: {name[:40]!r} is not a time zone; {known}") from error


def local_time(ns: int, zone: ZoneInfo) -> str:
    """Return a time (UTC ns) as text in a zone, with its offset from UTC: 2026-11-24 09:30:00-05:00."""
    moment = dt.datetime.fromtimestamp(ns // NS_PER_S, zone)
    fraction = f".{ns % NS_PER_S:09d}".rstrip("0") if ns % NS_PER_S else ""
    return f"{moment:%Y-%m-%d %H:%M:%S}{fraction}{moment.isoformat()[-6:]}"
