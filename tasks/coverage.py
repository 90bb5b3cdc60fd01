"""How much of the time that was asked for could each symbol be received, and why not the rest?

Pure: what was asked comes from requests, what could be received from the records of sessions. Time between sessions,
and before a recording that began late, was asked for and not received.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tasks.ledger import Gap, Request, SessionRecord

# A stretch of time, from its start until just before its end (UTC ns).
Span = tuple[int, int]
Spans = tuple[Span, ...]

LATE = "the recording began late"
STOPPED = "the recorder was stopped"
NOTHING = "nothing was recording"
# The start of a process and a handshake: it counts as not received, but nobody would call it a gap.
_STARTING_NS = 10_000_000_000
_STARTING = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """The time that was asked for and that which was received, in ns summed over symbols; the same in market hours.

    `per_symbol` and `hours_per_symbol` are shares from 0 to 1. `gaps` is what was asked for and not received, each
    stretch with its reason; those of one symbol do not overlap.
    """

    asked_ns: int
    received_ns: int
    hours_asked_ns: int
    hours_received_ns: int
    per_symbol: dict[str, float]
    hours_per_symbol: dict[str, float]
    gaps: tuple[Gap, ...]

    @property
    def share(self) -> float | None:
        """The share of the time asked for, from 0 to 1; None where none was."""
        return self.received_ns / self.asked_ns if self.asked_ns else None

    @property
    def hours_share(self) -> float | None:
        """The same of the time within market hours."""
        return self.hours_received_ns / self.hours_asked_ns if self.hours_asked_ns else None


def coverage(
    requests: Iterable[Request],
    records: Iterable[SessionRecord],
    window: Callable[[str], Span] | None = None,
) -> Coverage:
    """How much of what the requests ask for the sessions of these records could receive.

    `window` gives the stretch (UTC ns) of a symbol outside of which nothing counts.
    """
    known = sorted(records, key=lambda record: record.started_ns)
    asked: dict[str, Spans] = {}
    hours: Spans = ()
    for request in requests:
        hours = union((*hours, *request.hours))
        for symbol, spans in _asked_by(request).items():
            asked[symbol] = union((*asked.get(symbol, ()), *spans))
    received = [_received_in(record) for record in known]
    totals = [0, 0, 0, 0]
    shares: dict[str, float] = {}
    in_hours: dict[str, float] = {}
    missing: dict[tuple[int, int, str], list[str]] = {}
    for symbol, spans in asked.items():
        wanted = within(spans, (window(symbol),)) if window else spans
        had = within(wanted, union(span for each in received for span in each.get(symbol, ())))
        open_hours = wanted if never_closes(symbol) else within(wanted, hours)
        counts = [length(wanted), length(had), length(open_hours), length(within(open_hours, had))]
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        if counts[0]:
            shares[symbol] = counts[1] / counts[0]
        if counts[2]:
            in_hours[symbol] = counts[3] / counts[2]
        for span in without(wanted, had):
            for start_ns, end_ns, reason in _reasons(symbol, span, known):
                missing.setdefault((start_ns, end_ns, reason), []).append(symbol)
    return Coverage(
        asked_ns=totals[0], received_ns=totals[1], hours_asked_ns=totals[2], hours_received_ns=totals[3],
        per_symbol=shares, hours_per_symbol=in_hours,
        gaps=tuple(
            Gap(symbols=tuple(symbols), start_ns=start_ns, end_ns=end_ns, reason=reason)
            for (start_ns, end_ns, reason), symbols in sorted(missing.items())
        ),
    )  # fmt: skip


def requests_in(record: SessionRecord) -> tuple[Request, ...]:
    """What was asked of a session; of one whose record names no request, its symbols from its start to its deadline."""
    if record.requests:
        return record.requests
    end_ns = record.ended_ns if record.outcome in ("stopped", "recording") else record.deadline_ns
    at_first = tuple(symbol for symbol in record.symbols if not _came_later(record, symbol))
    return (
        Request(
            id=record.session, owner="", symbols=at_first, start_ns=record.started_ns, until_ns=end_ns,
            changes=record.changes,
        ),
    )  # fmt: skip


def session_coverage(record: SessionRecord) -> Coverage:
    """How much of what was asked of one session it could receive."""
    return coverage(requests_in(record), [record])


def never_closes(symbol: str) -> bool:
    """Whether the symbol trades around the clock: the vendor names crypto and currencies as VENUE:PAIR."""
    return ":" in symbol


def _asked_by(request: Request) -> dict[str, Spans]:
    return _spans(request.symbols, request, request.start_ns, request.end_ns)


def _received_in(record: SessionRecord) -> dict[str, Spans]:
    """When each symbol could be received in one session."""
    if record.listening_ns is None:
        return {}
    at_first = [symbol for symbol in record.symbols if not _came_later(record, symbol)]
    heard = _spans(at_first, record, record.listening_ns, record.ended_ns)
    lost: dict[str, list[Span]] = {}
    for gap in record.gaps:
        for symbol in gap.symbols:
            lost.setdefault(symbol, []).append(_span(gap, record))
    return {symbol: without(spans, union(lost.get(symbol, ()))) for symbol, spans in heard.items()}


def _came_later(record: SessionRecord, symbol: str) -> bool:
    return next((each.action for each in record.changes if each.symbol == symbol), None) == "added"


def _spans(symbols: Iterable[str], changed: Request | SessionRecord, start_ns: int, end_ns: int) -> dict[str, Spans]:
    """When each symbol was on the list: from `start_ns` or its addition until `end_ns` or its removal."""
    since = dict.fromkeys(symbols, start_ns)
    found: dict[str, list[Span]] = {}
    for change in changed.changes:
        if change.action == "added":
            since.setdefault(change.symbol, max(start_ns, change.at_ns))
        elif change.symbol in since:
            found.setdefault(change.symbol, []).append((since.pop(change.symbol), min(end_ns, change.at_ns)))
    for symbol, since_ns in since.items():
        found.setdefault(symbol, []).append((since_ns, end_ns))
    return {symbol: union(spans) for symbol, spans in found.items()}


def _reasons(symbol: str, span: Span, records: list[SessionRecord]) -> Iterable[tuple[int, int, str]]:
    """A stretch that is missing, in parts by why: as a session says, else by what was recording around it."""
    left: Spans = (span,)
    for record in reversed(records):  # The later session knows better why the day did not go on.
        for gap in record.gaps:
            if symbol in gap.symbols:
                named = within(left, (_span(gap, record),))
                yield from ((*part, gap.reason) for part in named)
                left = without(left, named)
    for part in left:
        reason = _around(part, records)
        if reason != _STARTING:
            yield (*part, reason)


def _around(span: Span, records: list[SessionRecord]) -> str:
    start_ns, end_ns = span
    if any(record.started_ns <= start_ns < record.ended_ns for record in records):
        return _STARTING
    before = max((record for record in records if record.ended_ns <= start_ns), key=_ended, default=None)
    if before is None:
        is_late = any(record.started_ns >= start_ns for record in records)
        return (_STARTING if end_ns - start_ns < _STARTING_NS else LATE) if is_late else NOTHING
    return STOPPED if before.outcome == "stopped" else NOTHING


def _ended(record: SessionRecord) -> int:
    return record.ended_ns


def _span(gap: Gap, record: SessionRecord) -> Span:
    return gap.start_ns, record.ended_ns if gap.end_ns is None else gap.end_ns


def union(spans: Iterable[Span]) -> Spans:
    """The same time in stretches that are in order and apart."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if start >= end:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return tuple(found)


def within(spans: Spans, others: Spans) -> Spans:
    """The time that is in both; each is in order and apart."""
    found: list[Span] = []
    at = 0
    for start, end in spans:
        while at < len(others) and others[at][1] <= start:
            at += 1
        index = at
        while index < len(others) and others[index][0] < end:
            found.append((max(start, others[index][0]), min(end, others[index][1])))
            index += 1
    return tuple(found)


def without(spans: Spans, others: Spans) -> Spans:
    """The time of `spans` that is not in `others`; each is in order and apart."""
    found: list[Span] = []
    for start, end in spans:
        for other_start, other_end in others:
            if other_end <= start or other_start >= end:
                continue
            if other_start > start:
                found.append((start, other_start))
            start = other_end
            if start >= end:
                break
        if start < end:
            found.append((start, end))
    return tuple(found)


def length(spans: Spans) -> int:
    """How long they last together, in ns."""
    return sum(end - start for start, end in spans)
