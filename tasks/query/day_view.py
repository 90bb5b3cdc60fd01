"""The days that a session touches, and its gaps on one of them.

The only source is the sessions' records: a batch may be sealed before a gap in it has ended or been noticed.
"""

from dataclasses import replace

from tasks.feeds.registry import zone_of
from tasks.records.coverage import clipped
from tasks.records.ledger import Gap, SessionRecord
from tasks.zones import dates_between


def days_of(record: SessionRecord, until_ns: int) -> set[str]:
    """Return the days (YYYY-MM-DD) that a session touches until `until_ns` (UTC ns).

    They are the exchange's days, and UTC days for symbols that never close.
    """
    end_ns = max(record.started_ns + 1, min(record.ended_ns, until_ns))
    zones = {zone_of(record.feed, symbol, record.zone) for symbol in record.symbols}
    return {day for zone in zones for day in dates_between(zone, record.started_ns, end_ns)}


def gaps_on(record: SessionRecord, day: str | None) -> list[Gap]:
    """Return a session's gaps, one per symbol, clipped to the day if given; an open gap has no end."""
    parts = (
        part for gap in record.gaps for part in ((gap,) if day is None else clipped(gap, day, record.feed, record.zone))
    )
    return [replace(part, symbols=(symbol,)) for part in parts for symbol in part.symbols]
