"""Which sessions recorded on a day, how much of it could they receive, and where are its gaps?

The sessions' own records are the only source: a batch was sealed before its gap had ended, or been noticed.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from tasks.coverage import Coverage, Span, coverage, never_closes, requests_in
from tasks.dates import dates_between, span_of
from tasks.ledger import Gap, SessionRecord

UTC = "UTC"


def days_of(record: SessionRecord, until_ns: int) -> set[str]:
    """The days (YYYY-MM-DD) that a session touches until `until_ns` (UTC ns).

    They are those of its exchange, and of UTC for symbols that never close.
    """
    end_ns = max(record.started_ns + 1, min(record.ended_ns, until_ns))
    kinds = {UTC if never_closes(symbol) else record.zone for symbol in record.symbols}
    return {day for zone in kinds for day in dates_between(zone, record.started_ns, end_ns)}


def day_coverage(records: Iterable[SessionRecord], day: str) -> Coverage:
    """How much of what was asked for on a day could be received, by all sessions together."""
    known = list(records)
    window = window_of(day, next((record.zone for record in known), UTC))
    return coverage([request for record in known for request in requests_in(record)], known, window)


def window_of(day: str, zone: str) -> Callable[[str], Span]:
    """From when until when (UTC ns) that day lasts for a symbol: in the exchange's zone, or UTC if it never closes."""
    spans = {False: span_of(day, zone), True: span_of(day, UTC)}
    return lambda symbol: spans[never_closes(symbol)]


def gaps_on(record: SessionRecord, day: str | None) -> list[Gap]:
    """The gaps of a session, one for each symbol, each clipped to the day; one that lasts has no end."""
    window = None if day is None else window_of(day, record.zone)
    found = []
    for gap in record.gaps:
        for symbol in gap.symbols:
            start_ns, end_ns = gap.start_ns, gap.end_ns
            if window is not None:
                first_ns, last_ns = window(symbol)
                start_ns = max(start_ns, first_ns)
                end_ns = end_ns if end_ns is None else min(end_ns, last_ns)
                if start_ns >= last_ns or (end_ns is not None and end_ns < start_ns):
                    continue
            found.append(replace(gap, symbols=(symbol,), start_ns=start_ns, end_ns=end_ns))
    return found
