"""The days that a session touches, and its gaps on some of them.

The only source is the sessions' records: a batch may be sealed before a gap in it has ended or been noticed.
"""

import time

from tasks.feeds.registry import zone_of
from tasks.records.ledger import Gap, SessionRecord
from tasks.records.sessions import record_of
from tasks.spans import Span
from tasks.storage.store import Store
from tasks.zones import date_in, dates_between, day_span


def days_of(record: SessionRecord, until_ns: int) -> set[str]:
    """Return the days (YYYY-MM-DD) that a session touches until `until_ns` (UTC ns).

    They are the exchange's days, and UTC days for symbols that never close.
    """
    end_ns = max(record.started_ns + 1, min(record.ended_ns, until_ns))
    zones = {zone_of(record.feed, symbol, record.zone) for symbol in record.symbols}
    return {day for zone in zones for day in dates_between(zone, record.started_ns, end_ns)}


def gaps_on(record: SessionRecord, first: str, last: str) -> list[Gap]:
    """Return a session's gaps, one per symbol, clipped to these days (YYYY-MM-DD); an open gap has no end.

    No days, two empty texts, stand for all.
    """
    found = []
    for gap in record.gaps:
        for symbol in gap.symbols:
            clipped = _clipped(gap, symbol, record, first, last)
            if clipped is not None:
                found.append(clipped)
    return found


def _clipped(gap: Gap, symbol: str, record: SessionRecord, first: str, last: str) -> Gap | None:
    start_ns, end_ns = gap.start_ns, gap.end_ns
    if first:
        whole = span_of_days(first, last, zone_of(record.feed, symbol, record.zone))
        start_ns = max(start_ns, whole[0])
        end_ns = None if end_ns is None else min(end_ns, whole[1])
        if start_ns >= (whole[1] if end_ns is None else end_ns):
            return None
    return Gap(symbols=(symbol,), start_ns=start_ns, end_ns=end_ns, reason=gap.reason)


def span_of_days(first: str, last: str, zone: str) -> Span:
    """Return from when until when (UTC ns) these days (YYYY-MM-DD) last in that zone."""
    return day_span(first, zone)[0], day_span(last, zone)[1]


def records_touching(store: Store, first: str = "", last: str = "", feed: str | None = None) -> list[SessionRecord]:
    """Return the records of the sessions that touch these days (YYYY-MM-DD), or all, of a feed or all, oldest first."""
    found = []
    for folder in sorted(store.sessions.glob("*")):
        # A session's name begins with its start in UTC, and a day ends at most a day later anywhere.
        if last and folder.name[:8] > _day_after(last):
            continue
        record = record_of(folder)
        if record is None or feed not in (None, record.feed):
            continue
        if not first or _touches(record, first, last):
            found.append(record)
    return found


def _day_after(day: str) -> str:
    return date_in("UTC", day_span(day, "UTC")[1]).replace("-", "")


def _touches(record: SessionRecord, first: str, last: str) -> bool:
    return any(first <= day <= last for day in days_of(record, time.time_ns()))
