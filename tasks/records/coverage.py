"""Coverage: how much of the requested time could be received, and when and why the rest could not.

Requests say what was wanted: symbols, from one time to another. Session records say what could be received: everything
from the first subscription to the end, except the session's gaps. If several sessions overlap, one of them is enough.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tasks.feeds.registry import never_closes, zone_of
from tasks.records.ledger import Coverage, CoveredTime, Gap, Request, SessionRecord, SymbolChange
from tasks.records.trade import NS_PER_S
from tasks.spans import Span, Spans, intersect, length, subtract, union
from tasks.zones import day_span

BEGAN_LATE = "the recording began late"
ENDED_EARLY = "the recording ended early"
NO_RECORDING = "no recording"
NOT_ACKNOWLEDGED = "subscribed, not yet acknowledged"
NOT_CONNECTED = "the feed was not connected"

_STARTING = (BEGAN_LATE, NO_RECORDING, NOT_ACKNOWLEDGED)
_STARTING_NS = 10 * NS_PER_S

_Piece = tuple[int, int, str]


@dataclass(frozen=True, slots=True)
class _Asked:
    """When one symbol was requested, and which part of that is in market hours."""

    spans: Spans = ()
    hours: Spans = ()

    def __add__(self, other: "_Asked") -> "_Asked":
        return _Asked(union((*self.spans, *other.spans)), union((*self.hours, *other.hours)))


@dataclass(frozen=True, slots=True)
class _Session:
    """When each symbol of a session was subscribed, and the session's gaps in order of their start.

    `gaps_of` has the indexes of each symbol's gaps in `gaps`.
    """

    ran: Span
    listed: dict[str, Spans]
    gaps: tuple[_Piece, ...]
    gaps_of: dict[str, tuple[int, ...]]

    def key(self, symbol: str) -> tuple[Spans, tuple[int, ...]]:
        """Return a key that is equal for symbols that could be received at the same times."""
        return self.listed.get(symbol, ()), self.gaps_of.get(symbol, ())

    def gaps_for(self, symbol: str) -> tuple[_Piece, ...]:
        """Return the symbol's gaps; if two overlap, as in older sessions, the first one takes precedence."""
        pieces = list[_Piece]()
        for start_ns, end_ns, reason in (self.gaps[place] for place in self.gaps_of.get(symbol, ())):
            start_ns = max(start_ns, pieces[-1][1]) if pieces else start_ns
            if start_ns < end_ns:
                pieces.append((start_ns, end_ns, reason))
        return tuple(pieces)


def coverage(requests: Iterable[Request], records: Sequence[SessionRecord], window: Span | None = None) -> Coverage:
    """Return how much of these requests these sessions could receive.

    While a session is running, time after its latest status does not count yet. `window` (UTC ns) clips everything.
    """
    asked: dict[str, _Asked] = {}
    known = _known_until(records)
    for request in requests:
        for symbol, each in _asked(request).items():
            _ask(asked, symbol, each, [known, *([window] if window else [])])
    return _covered(asked, records)


def day_coverage(records: Sequence[SessionRecord], day: str) -> Coverage:
    """Return the coverage of one day (YYYY-MM-DD) of one feed: all that these sessions were requested to record.

    The day lasts from midnight to midnight in each symbol's time zone.
    """
    asked: dict[str, _Asked] = {}
    known = _known_until(records)
    for record in records:
        for request in requests_of_record(record):
            for symbol, each in _asked(request).items():
                _ask(asked, symbol, each, [known, day_span(day, zone_of(record.feed, symbol, record.zone))])
    return _covered(asked, records)


def recorded_and_received(records: Sequence[SessionRecord], symbols: Iterable[str]) -> dict[str, tuple[Spans, Spans]]:
    """Return when (UTC ns) any of these sessions was subscribed to each symbol, and when one could receive it."""
    sessions = [_session(record) for record in records]
    # Of thousands of symbols, most have the same history, so it is computed once.
    known: dict[tuple[object, ...], tuple[Spans, Spans]] = {}
    found = {}
    for symbol in symbols:
        key = tuple(session.key(symbol) for session in sessions)
        if key not in known:
            known[key] = _recorded_and_received(sessions, symbol)
        found[symbol] = known[key]
    return found


def _recorded_and_received(sessions: Sequence[_Session], symbol: str) -> tuple[Spans, Spans]:
    listed = [session.listed.get(symbol, ()) for session in sessions]
    received = (
        span
        for spans, session in zip(listed, sessions, strict=True)
        for span in subtract(spans, union(piece[:2] for piece in session.gaps_for(symbol)))
    )
    return union(span for spans in listed for span in spans), union(received)


def requests_of_record(record: SessionRecord) -> tuple[Request, ...]:
    """Return a session's requests; if its record has none, its symbols until its deadline or stop."""
    if record.requests:
        return record.requests
    until_ns = record.ended_ns if record.outcome == "stopped" else record.deadline_ns
    return (
        Request(
            id=record.session, owner=record.session, symbols=_first_symbols(record), start_ns=record.started_ns,
            until_ns=until_ns, changes=record.changes, feed=record.feed,
        ),
    )  # fmt: skip


def session_coverage(record: SessionRecord) -> Coverage:
    """Return how much of its requests one session could receive."""
    return coverage(requests_of_record(record), [record])


def notable(gaps: Iterable[Gap]) -> tuple[Gap, ...]:
    """Return the gaps without the first seconds of a recording: a handshake is not a notable gap."""
    return tuple(gap for gap in gaps if gap.reason not in _STARTING or _length_ns(gap) >= _STARTING_NS)


def _length_ns(gap: Gap) -> int:
    return (gap.start_ns if gap.end_ns is None else gap.end_ns) - gap.start_ns


def asked_spans(request: Request) -> dict[str, Spans]:
    """Return when (UTC ns) the request wanted each of its symbols."""
    return _spans_by_symbol(request.symbols, request.changes, request.start_ns, request.end_ns)


def clipped(gap: Gap, day: str, feed: str, zone: str) -> tuple[Gap, ...]:
    """Return the parts of a gap on that day (YYYY-MM-DD) of its symbols; an open gap stays open.

    There are two parts if some of its symbols have UTC days and others days of `zone`.
    """
    parts: dict[Span, list[str]] = {}
    for symbol in gap.symbols:
        parts.setdefault(day_span(day, zone_of(feed, symbol, zone)), []).append(symbol)
    found = []
    for (start_ns, end_ns), symbols in parts.items():
        first_ns, last_ns = max(start_ns, gap.start_ns), end_ns if gap.end_ns is None else min(end_ns, gap.end_ns)
        if first_ns < last_ns:
            until_ns = gap.end_ns if gap.end_ns is None else last_ns
            found.append(Gap(symbols=tuple(symbols), start_ns=first_ns, end_ns=until_ns, reason=gap.reason))
    return tuple(found)


def _known_until(records: Sequence[SessionRecord]) -> Span:
    """Return the time up to which it is known what was received."""
    recording = [record.ended_ns for record in records if record.outcome == "recording"]
    return (-(1 << 63), max(recording) if recording else 1 << 63)


def _ask(asked: dict[str, _Asked], symbol: str, each: _Asked, clips: Iterable[Span]) -> None:
    for clip in clips:
        each = _Asked(intersect(each.spans, (clip,)), intersect(each.hours, (clip,)))
    if each.spans:
        asked[symbol] = asked[symbol] + each if symbol in asked else each


def _asked(request: Request) -> dict[str, _Asked]:
    hours = union(request.hours)
    return {
        symbol: _Asked(spans, spans if never_closes(request.feed, symbol) else intersect(spans, hours))
        for symbol, spans in asked_spans(request).items()
    }


def _first_symbols(record: SessionRecord) -> tuple[str, ...]:
    """Return the symbols with which a session began."""
    first = {change.symbol: change.action for change in reversed(record.changes)}
    return tuple(symbol for symbol in record.symbols if first.get(symbol) != "added")


def _spans_by_symbol(
    symbols: Iterable[str], changes: Iterable[SymbolChange], start_ns: int, end_ns: int
) -> dict[str, Spans]:
    """Return when each symbol was on a list that began with `symbols` and was changed, between two times."""
    since, found = dict.fromkeys(symbols, start_ns), dict[str, list[Span]]()
    for change in changes:
        if change.action == "added":
            since.setdefault(change.symbol, change.at_ns)
        elif change.symbol in since:
            found.setdefault(change.symbol, []).append((since.pop(change.symbol), change.at_ns))
    for symbol, at_ns in since.items():
        found.setdefault(symbol, []).append((at_ns, end_ns))
    whole = ((start_ns, end_ns),) if start_ns < end_ns else ()
    return {symbol: intersect(union(spans), whole) for symbol, spans in found.items()}


def _session(record: SessionRecord) -> _Session:
    listed: dict[str, Spans] = {}
    if record.listening_ns is not None:
        listed = _spans_by_symbol(_first_symbols(record), record.changes, record.listening_ns, record.ended_ns)
    gaps = sorted(record.gaps, key=lambda gap: gap.start_ns)
    places: dict[str, list[int]] = {}
    for place, gap in enumerate(gaps):
        for symbol in gap.symbols:
            places.setdefault(symbol, []).append(place)
    ends = (record.ended_ns if gap.end_ns is None else gap.end_ns for gap in gaps)
    pieces = tuple((gap.start_ns, end_ns, gap.reason) for gap, end_ns in zip(gaps, ends, strict=True))
    gaps_of = {symbol: tuple(each) for symbol, each in places.items()}
    return _Session((record.started_ns, record.ended_ns), listed, pieces, gaps_of)


def _covered(asked: dict[str, _Asked], records: Sequence[SessionRecord]) -> Coverage:
    sessions = [_session(record) for record in sorted(records, key=lambda record: record.started_ns)]
    # Of thousands of symbols, most have the same history, so it is computed once.
    alike: dict[tuple[object, ...], list[str]] = {}
    for symbol, each in asked.items():
        alike.setdefault((each, *(session.key(symbol) for session in sessions)), []).append(symbol)
    per_symbol, gaps = dict[str, CoveredTime](), dict[_Piece, list[str]]()
    for symbols in alike.values():
        time, pieces = _of_symbol(symbols[0], asked[symbols[0]], sessions)
        per_symbol |= dict.fromkeys(symbols, time)
        for piece in pieces:
            gaps.setdefault(piece, []).extend(symbols)
    times = per_symbol.values()
    return Coverage(
        asked_ns=sum(each.asked_ns for each in times),
        received_ns=sum(each.received_ns for each in times),
        hours_asked_ns=sum(each.hours_asked_ns for each in times),
        hours_received_ns=sum(each.hours_received_ns for each in times),
        per_symbol={symbol: per_symbol[symbol] for symbol in asked},
        gaps=tuple(
            Gap(symbols=tuple(symbols), start_ns=start_ns, end_ns=end_ns, reason=reason)
            for (start_ns, end_ns, reason), symbols in sorted(gaps.items())
        ),
    )


def _of_symbol(symbol: str, asked: _Asked, sessions: Sequence[_Session]) -> tuple[CoveredTime, list[_Piece]]:
    gaps = [session.gaps_for(symbol) for session in sessions]
    listed = [session.listed.get(symbol, ()) for session in sessions]
    received = union(
        span
        for spans, pieces in zip(listed, gaps, strict=True)
        for span in subtract(spans, union(piece[:2] for piece in pieces))
    )
    time = CoveredTime(
        asked_ns=length(asked.spans),
        received_ns=length(intersect(asked.spans, received)),
        hours_asked_ns=length(asked.hours),
        hours_received_ns=length(intersect(asked.hours, received)),
    )
    missing, pieces = subtract(asked.spans, received), list[_Piece]()
    for of_session in gaps:
        pieces += _within(missing, of_session)
        missing = subtract(missing, union(piece[:2] for piece in of_session))
    subscribed, ran = union(span for spans in listed for span in spans), union(session.ran for session in sessions)
    pieces += [(*span, _why(span, subscribed, ran)) for span in missing]
    return time, _joined(pieces)


def _within(missing: Spans, gaps: Iterable[_Piece]) -> Iterable[_Piece]:
    """Yield the parts of the gaps that overlap missing time, each with the gap's reason."""
    place = 0
    for start_ns, end_ns, reason in gaps:
        while place < len(missing) and missing[place][1] <= start_ns:
            place += 1
        for span in missing[place:]:
            if span[0] >= end_ns:
                break
            yield max(start_ns, span[0]), min(end_ns, span[1]), reason


def _why(span: Span, subscribed: Spans, ran: Spans) -> str:
    """Return why an interval outside every session's own gaps was not received."""
    if not subscribed:
        return NOT_CONNECTED if intersect((span,), ran) else NO_RECORDING
    if span[1] <= subscribed[0][0]:
        return BEGAN_LATE
    return ENDED_EARLY if span[0] >= subscribed[-1][1] else NO_RECORDING


def _joined(pieces: Iterable[_Piece]) -> list[_Piece]:
    """Return the pieces in order, merging adjacent ones with the same reason."""
    found: list[_Piece] = []
    for start_ns, end_ns, reason in sorted(pieces):
        if found and found[-1][1:] == (start_ns, reason):
            found[-1] = (found[-1][0], end_ns, reason)
        else:
            found.append((start_ns, end_ns, reason))
    return found
