"""By whose midnights does a symbol's day begin and end?

Symbols that never close have days of UTC, the others days of their exchange.
"""

from datetime import date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from tasks.spans import Span
from tasks.trade import NS_PER_S

UTC = "UTC"


def never_closes(symbol: str) -> bool:
    """Whether the symbol trades around the clock: the vendor names crypto and currencies as VENUE:PAIR."""
    return ":" in symbol


def zone_of(symbol: str, exchange_zone: str) -> str:
    """The time zone of the symbol's days, where its exchange's is `exchange_zone`."""
    return UTC if never_closes(symbol) else exchange_zone


@lru_cache(maxsize=256)
def day_span(day: str, zone: str) -> Span:
    """From when until when, in UTC ns, that day (YYYY-MM-DD) lasts in that zone."""
    first = date.fromisoformat(day)
    midnights = (datetime.combine(each, datetime.min.time(), ZoneInfo(zone)) for each in (first, first + timedelta(1)))
    start_ns, end_ns = (int(midnight.timestamp()) * NS_PER_S for midnight in midnights)
    return start_ns, end_ns
