"""When an exchange trades: its trading days, hours, and breaks.

Holidays and early closes come from exchange-calendars. Importing that library takes about a second, so it is imported
when a calendar is first needed.
"""

import datetime
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from tasks.errors import SettingsError
from tasks.records.market_session import MarketSession
from tasks.records.trade import NS_PER_S

_HOUR_NS = 3_600_000_000_000
_DAY_NS = 24 * _HOUR_NS

# No exchange closes for longer, except in wars; the longest holidays in Asia are ten days.
_LONGEST_REST_DAYS = 30

# When trading before the open begins, and when trading after the close ends, also on a day with an early close, in the
# exchange's time: the longest hours of any US stock exchange. The library does not know them. Aliases such as XNAS and
# NYSE have the same calendar.
_EXTENDED_HOURS = {"XNYS": (datetime.time(4), datetime.time(20), datetime.time(17))}


class NotCovered(SettingsError):
    """Raised if the calendar exists but does not cover the date."""


@dataclass(frozen=True, slots=True)
class TradingDay:
    """One day of an exchange: it trades from `open_ns` until just before `close_ns` (UTC ns).

    `early_close`: the exchange closes earlier than usual on this day.
    """

    date: datetime.date
    calendar: str
    open_ns: int
    close_ns: int
    early_close: bool


def trading_day_for(
    date: datetime.date, calendar: str = "XNYS", before_open_ns: int = 0, after_close_ns: int = 0
) -> TradingDay | None:
    """Return the trading day of a date in the exchange's time zone, or None if it does not trade.

    `before_open_ns` and `after_close_ns` widen it, for example to pre-market and after-hours trading. Raises
    SettingsError for an unknown calendar and for a date that the calendar does not cover.
    """
    hours, day = _hours_around(calendar, date.year), date.isoformat()
    if day not in hours.sessions:
        return None
    open_ns, close_ns = int(hours.session_open(day).value), int(hours.session_close(day).value)
    return TradingDay(date, calendar, open_ns - before_open_ns, close_ns + after_close_ns, day in hours.early_closes)


def trading_hours(start_ns: int, end_ns: int, calendar: str = "XNYS") -> tuple[tuple[int, int], ...]:
    """Return the intervals (UTC ns) between `start_ns` and `end_ns` in which the exchange trades, in order.

    Intervals are not clipped, and exclude breaks. Days that the calendar does not cover have none: missing data must
    not prevent recording. Raises SettingsError for an unknown calendar.
    """
    zone = exchange_zone(calendar)
    # One day more on each side: some exchanges open on the evening before the trading day's date.
    date = datetime.date.fromisoformat(date_in(zone, start_ns)) - datetime.timedelta(days=1)
    last = datetime.date.fromisoformat(date_in(zone, end_ns)) + datetime.timedelta(days=1)
    found: list[tuple[int, int]] = []
    while date <= last:
        with suppress(NotCovered):
            found += _stretches(date, calendar)
        date += datetime.timedelta(days=1)
    return tuple((opens, closes) for opens, closes in found if closes > start_ns and opens < end_ns)


def market_sessions(start_ns: int, end_ns: int, calendar: str = "XNYS") -> tuple[MarketSession, ...]:
    """Return the parts of trading days between `start_ns` and `end_ns` (UTC ns), before and after hours too, in order.

    Parts are not clipped. Only US stocks have sessions before the open and after the close; other exchanges have
    regular ones alone. Days that the calendar does not cover have none. Raises SettingsError for an unknown calendar.
    """
    zone = exchange_zone(calendar)
    date = datetime.date.fromisoformat(date_in(zone, start_ns)) - datetime.timedelta(days=1)
    last = datetime.date.fromisoformat(date_in(zone, end_ns)) + datetime.timedelta(days=1)
    found: list[MarketSession] = []
    while date <= last:
        with suppress(NotCovered):
            found += _parts(date, calendar, zone)
        date += datetime.timedelta(days=1)
    return tuple(part for part in found if part.end_ns > start_ns and part.start_ns < end_ns)


def _parts(date: datetime.date, calendar: str, zone: ZoneInfo) -> list[MarketSession]:
    day = trading_day_for(date, calendar)
    if day is None:
        return []
    name = date.isoformat()
    parts = [MarketSession("regular", name, *stretch) for stretch in _stretches(date, calendar)]
    hours = _EXTENDED_HOURS.get(_hours_around(calendar, date.year).name)
    if hours is None:
        return parts
    first, last, last_if_early = hours
    begins_ns = _ns(datetime.datetime.combine(date, first, zone))
    ends_ns = _ns(datetime.datetime.combine(date, last_if_early if day.early_close else last, zone))
    return [
        MarketSession("pre", name, begins_ns, day.open_ns), *parts, MarketSession("post", name, day.close_ns, ends_ns)
    ]  # fmt: skip


def _ns(moment: datetime.datetime) -> int:
    return int(moment.timestamp()) * NS_PER_S


def _stretches(date: datetime.date, calendar: str) -> list[tuple[int, int]]:
    """Return when (UTC ns) the exchange trades on a date: one interval, or two around its break."""
    day = trading_day_for(date, calendar)
    if day is None:
        return []
    hours, name = _hours_around(calendar, date.year), date.isoformat()
    if not hours.session_has_break(name):
        return [(day.open_ns, day.close_ns)]
    return [
        (day.open_ns, int(hours.session_break_start(name).value)),
        (int(hours.session_break_end(name).value), day.close_ns),
    ]


def is_covered(date: datetime.date, calendar: str) -> bool:
    """Return whether the calendar covers a date. Raises SettingsError for an unknown calendar."""
    try:
        _hours_around(calendar, date.year)
    except NotCovered:
        return False
    return True


def next_open(ns: int, calendar: str = "XNYS", before_open_ns: int = 0) -> int:
    """Return when (UTC ns) the exchange opens next, strictly after `ns` (UTC ns).

    Raises SettingsError as `trading_day_for` does.
    """
    zone = exchange_zone(calendar)
    # Start one day earlier: some exchanges open on the evening before the trading day's date.
    first = datetime.date.fromisoformat(date_in(zone, ns)) - datetime.timedelta(days=1)
    for days in range(_LONGEST_REST_DAYS + 2):
        date = first + datetime.timedelta(days=days)
        if date_in(zone, ns) > date.isoformat() and not is_covered(date, calendar):
            continue  # The previous day may be in a year that the calendar no longer covers.
        day = trading_day_for(date, calendar, before_open_ns)
        if day is not None and day.open_ns > ns:
            return day.open_ns
    raise SettingsError(f"{calendar}: does not open within {_LONGEST_REST_DAYS} days of {first}; give another calendar")


def exchange_zone(calendar: str = "XNYS") -> ZoneInfo:
    """Return the time zone of an exchange. Raises SettingsError for an unknown calendar."""
    from exchange_calendars.calendar_utils import global_calendar_dispatcher as known
    from exchange_calendars.errors import InvalidCalendarName

    # Read it from the class, since for some exchanges the library cannot compute the days of any year.
    zone = None
    with suppress(InvalidCalendarName):
        names = {name.lower(): name for name in known.get_calendar_names()}
        name = known.resolve_alias(names.get(calendar.lower(), calendar))
        zone = getattr(known._calendar_factories.get(name), "tz", None)
    return zone if isinstance(zone, ZoneInfo) else ZoneInfo(_hours_around(calendar, 2020).tz.key)


def date_in(zone: ZoneInfo, ns: int) -> str:
    """Return the date (YYYY-MM-DD) in `zone` at `ns` (UTC ns)."""
    return datetime.datetime.fromtimestamp(ns // 1_000_000_000, zone).date().isoformat()


@lru_cache(maxsize=8)
def _hours_around(calendar: str, year: int) -> Any:
    """Build the calendar of one year; by default the library's calendars end a year from now."""
    from exchange_calendars import get_calendar, get_calendar_names
    from exchange_calendars.errors import CalendarError, InvalidCalendarName

    names = {name.lower(): name for name in get_calendar_names()}
    calendar, last = names.get(calendar.lower(), calendar), f"{year:04d}-12-31"
    try:
        try:
            return get_calendar(calendar, start=f"{year:04d}-01-01", end=last)
        except ValueError:
            # The library fails if the first session is a special day (XTAE, 2026): begin a year earlier.
            return get_calendar(calendar, start=f"{year - 1:04d}-01-01", end=last)
    except InvalidCalendarName as error:
        near = ", ".join(get_close_matches(calendar.upper(), names.values(), n=3)) or "XNYS, XLON, 24/7"
        raise SettingsError(f"{calendar!r} is not an exchange calendar; give one such as {near}") from error
    except NotImplementedError as error:
        raise NotCovered(f"calendar {calendar}: the library cannot compute its holidays; give another one") from error
    except (CalendarError, ValueError) as error:
        raise NotCovered(f"calendar {calendar} does not cover {year}; give a date that it covers: {error}") from error
