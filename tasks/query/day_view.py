"""Which days does a session touch, and where are its gaps on one of them?

The sessions' own records are the only source: a batch was sealed before its gap had ended, or been noticed.
"""

from dataclasses import replace

from tasks.feeds.registry import zone_of
from tasks.records.coverage import clipped
from tasks.records.ledger import Gap, SessionRecord
from tasks.zones import dates_between


def days_of(record: SessionRecord, until_ns: int) -> set[str]:
    """The days (YYYY-MM-DD) that a session touches until `until_ns` (UTC ns).

    They are those of its exchange, and of UTC for symbols that never close.
    """
    end_ns = max(record.started_ns + 1, min(record.ended_ns, until_ns))
    zones = {zone_of(record.feed, symbol, record.zone) for symbol in record.symbols}
    return {day for zone in zones for day in dates_between(zone, record.started_ns, end_ns)}


def gaps_on(record: SessionRecord, day: str | None) -> list[Gap]:
    """The gaps of a session, one for each symbol, clipped to the day where one is given; one that lasts has no end."""
    parts = (
        part for gap in record.gaps for part in ((gap,) if day is None else clipped(gap, day, record.feed, record.zone))
    )
    return [replace(part, symbols=(symbol,)) for part in parts for symbol in part.symbols]
