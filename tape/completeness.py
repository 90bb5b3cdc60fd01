"""Whether a day is complete: which share of its market's hours each symbol could be received, and why not all of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.feeds.registry import never_closes, zone_of
from tasks.query.coverage import regular_hours
from tasks.records.coverage import recorded_and_received
from tasks.records.ledger import SessionRecord
from tasks.records.market_session import MarketSessions
from tasks.records.trade import NS_PER_S
from tasks.spans import Span, Spans, intersect, length, subtract
from tasks.zones import day_span

NOT_RECORDED = "not recorded"


@dataclass(frozen=True, slots=True)
class Completeness:
    """What one day could have been received of each symbol in its market's hours, and what was missing.

    `hours` has the length of each symbol's hours until now, `missing` the intervals (UTC ns) that could not be
    received, with their reasons. `zones` has the time zone of each symbol's days.
    """

    feeds: tuple[str, ...]
    hours: dict[str, int] = field(default_factory=dict)
    missing: dict[str, tuple[tuple[Span, str], ...]] = field(default_factory=dict)
    zones: dict[str, str] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool | None:
        """Whether nothing is missing; None if no market was open."""
        return not any(self.missing.values()) if any(self.hours.values()) else None

    @property
    def share(self) -> float | None:
        """The share of all symbols' hours in which trades could be received; None if no market was open."""
        whole = sum(self.hours.values())
        lost = sum(end - start for pieces in self.missing.values() for (start, end), _ in pieces)
        return 1 - lost / whole if whole else None

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values: by symbol, the share received and each missing interval."""
        return {
            "complete": self.is_complete,
            "share": self.share,
            "symbols": {
                symbol: {
                    "hours_s": hours / NS_PER_S,
                    "missing": [
                        {"start_ns": start, "end_ns": end, "reason": why} for (start, end), why in self.missing[symbol]
                    ],
                }
                for symbol, hours in self.hours.items()
            },
        }


def completeness_of(records: Sequence[SessionRecord], day: str, sessions: MarketSessions, now_ns: int) -> Completeness:
    """Return how complete a day (YYYY-MM-DD) is: in regular hours, or all day if a market never closes."""
    found = Completeness(tuple(dict.fromkeys(record.feed for record in records)))
    first = {symbol: record for record in reversed(records) for symbol in record.symbols}
    received, gaps = recorded_and_received(records, first), _gaps_by_symbol(records)
    hours: dict[tuple[bool, str], Spans] = {}
    # Most symbols have the same history, so it is computed once.
    alike: dict[tuple[Spans, Spans, tuple[tuple[Span, str], ...]], tuple[tuple[Span, str], ...]] = {}
    for symbol, record in sorted(first.items(), key=lambda item: item[0]):
        always, zone = never_closes(record.feed, symbol), zone_of(record.feed, symbol, record.zone)
        if (always, zone) not in hours:
            whole = day_span(day, zone)
            open_hours = (whole,) if always else regular_hours(sessions(*whole), day)
            hours[always, zone] = intersect(open_hours, ((whole[0], now_ns),)) if whole[0] < now_ns else ()
        until_now = hours[always, zone]
        key = (until_now, received[symbol][1], tuple(gaps.get(symbol, ())))
        if key not in alike:
            alike[key] = tuple(_with_reasons(subtract(until_now, key[1]), key[2]))
        found.hours[symbol], found.zones[symbol], found.missing[symbol] = length(until_now), zone, alike[key]
    return found


def _gaps_by_symbol(records: Iterable[SessionRecord]) -> dict[str, list[tuple[Span, str]]]:
    """Return each symbol's gaps with their reasons; one that is open lasts to the session's end."""
    found: dict[str, list[tuple[Span, str]]] = {}
    for record in records:
        for gap in record.gaps:
            span = (gap.start_ns, record.ended_ns if gap.end_ns is None else gap.end_ns)
            for symbol in gap.symbols:
                found.setdefault(symbol, []).append((span, gap.reason))
    return found


def _with_reasons(missing: Spans, gaps: Iterable[tuple[Span, str]]) -> Iterable[tuple[Span, str]]:
    pieces = []
    for span, why in gaps:
        pieces += [(piece, why) for piece in intersect(missing, (span,) if span[0] < span[1] else ())]
        missing = subtract(missing, (span,)) if span[0] < span[1] else missing
    return sorted([*pieces, *((span, NOT_RECORDED) for span in missing)])
