"""What could be received, minute by minute, from the sessions' records.

A minute in which a trade could have been received is covered, whether there was one or not.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.feeds.registry import never_closes, zone_of
from tasks.query.day_view import days_of
from tasks.records.coverage import recorded_and_received
from tasks.records.ledger import SessionRecord
from tasks.records.market_session import MarketSession, MarketSessions
from tasks.records.trade import NS_PER_S
from tasks.spans import Span, Spans
from tasks.zones import day_span

RECEIVED, GAP, NOT_RECORDED = "received", "gap", "not recorded"
_MINUTE_NS = 60 * NS_PER_S
_Array = np.ndarray[Any, Any]

_SCHEMA = pa.schema(
    [
        ("symbol", pa.string()), ("date", pa.string()), ("minute", pa.timestamp("ns")), ("state", pa.string()),
        ("received_s", pa.float64()), ("gap_s", pa.float64()), ("not_recorded_s", pa.float64()),
    ]
)  # fmt: skip


def minutes_of(records: Sequence[SessionRecord], first: str, last: str, sessions: MarketSessions) -> pa.Table:
    """Return a row for each symbol and minute of its market's regular hours on these days, or all days recorded.

    A symbol whose market never closes has every minute of its UTC day. The state is `received` if a trade could be
    received in the whole minute; else `gap` if most of the missing time is a gap of a session, or `not recorded` if no
    session was subscribed to the symbol.
    """
    return pa.Table.from_batches(list(_symbol_days(records, first, last, sessions)), _SCHEMA)


def _symbol_days(
    records: Sequence[SessionRecord], first: str, last: str, sessions: MarketSessions
) -> Iterator[pa.RecordBatch]:
    hours: dict[str, Spans] = {}
    by_symbol = _days_by_symbol(records, first, last)
    known = recorded_and_received(records, by_symbol)
    first_of = {symbol: record for record in reversed(records) for symbol in record.symbols}
    for symbol, days in sorted(by_symbol.items()):
        (recorded, received), record = known[symbol], first_of[symbol]
        always, zone = never_closes(record.feed, symbol), zone_of(record.feed, symbol, record.zone)
        for day in sorted(days):
            if always:
                spans: Spans = (day_span(day, zone),)
            else:
                if day not in hours:
                    hours[day] = regular_hours(sessions(*day_span(day, zone)), day)
                spans = hours[day]
            for span in spans:
                yield _minutes(symbol, day, span, recorded, received)


def _days_by_symbol(records: Iterable[SessionRecord], first: str, last: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for record in records:
        days = {day for day in days_of(record, record.ended_ns) if not first or first <= day <= last}
        for symbol in record.symbols:
            found.setdefault(symbol, set()).update(days)
    return found


def regular_hours(sessions: Iterable[MarketSession], day: str) -> Spans:
    """Return the regular hours (UTC ns) among these sessions that belong to the day (YYYY-MM-DD)."""
    return tuple((each.start_ns, each.end_ns) for each in sessions if each.name == "regular" and each.date == day)


def _minutes(symbol: str, day: str, span: Span, recorded: Spans, received: Spans) -> pa.RecordBatch:
    edges = np.arange(span[0], span[1], _MINUTE_NS)
    ends = np.minimum(edges + _MINUTE_NS, span[1])
    got, had = within(received, edges, ends), within(recorded, edges, ends)
    gap, none = had - got, (ends - edges) - had
    state = np.where(got == ends - edges, RECEIVED, np.where(gap >= none, GAP, NOT_RECORDED))
    count = len(edges)
    columns = [
        pa.array([symbol] * count), pa.array([day] * count), pa.array(edges, pa.timestamp("ns")),
        pa.array(state.tolist(), pa.string()), *(pa.array(each / NS_PER_S) for each in (got, gap, none)),
    ]  # fmt: skip
    return pa.record_batch(columns, schema=_SCHEMA)


def within(spans: Spans, starts_ns: _Array, ends_ns: _Array) -> _Array:
    """Return how much (ns) of each interval lies in these spans, which are in order and do not overlap."""
    return _until(spans, ends_ns) - _until(spans, starts_ns)


def _until(spans: Spans, times_ns: _Array) -> _Array:
    """Return the length of the spans before each time."""
    if not spans:
        return np.zeros(len(times_ns), np.int64)
    starts, ends = (np.array(each, np.int64) for each in zip(*spans, strict=True))
    before = np.concatenate([[0], np.cumsum(ends - starts)])
    place = np.searchsorted(starts, times_ns, side="right")
    last = np.maximum(place - 1, 0)
    into = np.minimum(times_ns, ends[last]) - starts[last]
    return np.where(place == 0, 0, before[last] + into)
