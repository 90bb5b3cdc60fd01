"""Emits events about recordings, such as `tape.gap`, which Prefect's automations listen to.

Events are for alarms. They are queued and sent by a thread of Prefect's: an API that does not answer must neither hold
up nor end a recording. Each is also a warning in the log of its run.
"""

import logging
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from prefect import get_run_logger
from prefect.events import emit_event
from prefect.exceptions import MissingContextError
from prefect.settings import get_current_settings

from flows.bucket import bucket_of
from flows.orchestrator import is_alone, meanwhile
from flows.settings import Settings
from tasks.archive.catalog import Catalog
from tasks.capture.supervise import Recorder, record_of, watched
from tasks.duration import format_duration
from tasks.errors import RecorderError
from tasks.records.gaps import read_gaps
from tasks.records.ledger import Gap, Ledger, SessionRecord
from tasks.records.sessions import GAPS_FILE
from tasks.records.status import Status
from tasks.records.trade import NS_PER_S
from tasks.shown import plain
from tasks.storage.store import Store
from tasks.upload.uploads import sessions_awaiting_upload
from tasks.verify.account import Account
from tasks.zones import utc_text

GAP, STALLED, NOTHING_RECEIVED = "tape.gap", "tape.stalled", "tape.nothing-received"
RECORDER_DIED, QUARANTINE, UPLOAD_FAILED = "tape.recorder.died", "tape.quarantine", "tape.upload.failed"
LEDGER_UNBALANCED, DISK_LOW, DAY_SHORT = "tape.ledger.unbalanced", "tape.disk.low", "tape.day.short"
EVENTS = (
    GAP, STALLED, NOTHING_RECEIVED, RECORDER_DIED, QUARANTINE, UPLOAD_FAILED, LEDGER_UNBALANCED, DISK_LOW, DAY_SHORT,
)  # fmt: skip

_LOOK_EVERY_S = 1.0
_SYMBOLS_NAMED = 20
_TEXT_LENGTH = 300


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, to which resource (`tape.session.<id>`, `tape.day.<feed>.<date>`), and what a receiver needs."""

    name: str
    resource: str
    reason: str
    payload: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a session that records becomes an event; times in ns."""

    silent_status_ns: int = 15 * NS_PER_S
    unconnected_ns: int = 60 * NS_PER_S
    nothing_ns: int = 5 * 60 * NS_PER_S
    quiet_ns: int = 15 * 60 * NS_PER_S
    disk_reserves: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is known of a session at `now_ns` (UTC ns); `hours` are the market hours that its run asked for."""

    now_ns: int
    status: Status
    gaps: tuple[Gap, ...] = ()
    is_dead: bool = False
    hours: tuple[tuple[int, int], ...] = ()
    free_bytes: int = 0
    reserve_bytes: int = 0


class SessionEvents:
    """Turns what is seen of one session, look after look, into events: each condition once, until it is over."""

    def __init__(self, session: str, begun_ns: int, limits: Limits | None = None) -> None:
        self._session = session
        self._begun_ns = begun_ns
        self._limits = limits or Limits()
        self._gaps: set[tuple[int, str]] = set()
        self._told: set[str] = set()
        self._trades = 0
        self._traded_ns = begun_ns
        self._connected_ns = begun_ns

    def look(self, seen: Seen) -> list[Event]:
        """Return what has begun since the last look."""
        status, now_ns = seen.status, seen.now_ns
        if status.trades != self._trades or not any(opens <= now_ns < closes for opens, closes in seen.hours):
            self._trades, self._traded_ns = status.trades, now_ns
        if status.state in ("recording", "draining", "ended"):
            self._connected_ns = now_ns
        return [*self._new_gaps(seen.gaps), *self._stalls(seen), *self._disk(seen), *self._death(seen)]

    def _new_gaps(self, gaps: Iterable[Gap]) -> list[Event]:
        """Return one event for all new gaps, so that a feed that drops every connection cannot flood the server."""
        new = [
            gap for gap in gaps
            if (gap.start_ns, gap.reason) not in self._gaps and (gap.end_ns is None or gap.end_ns > self._begun_ns)
        ]  # fmt: skip
        self._gaps.update((gap.start_ns, gap.reason) for gap in new)
        if not new:
            return []
        ends = [gap.end_ns for gap in new if gap.end_ns is not None]
        times = _times(min(gap.start_ns for gap in new), max(ends) if len(ends) == len(new) else None)
        symbols = dict.fromkeys(symbol for gap in new for symbol in gap.symbols)
        return [self._event(GAP, new[0].reason, symbols, **times, gaps=len(new))]

    def _stalls(self, seen: Seen) -> list[Event]:
        status, limits, now_ns = seen.status, self._limits, seen.now_ns
        old_ns, apart_ns = now_ns - status.updated_ns, now_ns - self._connected_ns
        quiet_ns = now_ns - self._traded_ns
        unheard = status.state == "recording" and not status.trades and quiet_ns >= limits.nothing_ns
        quiet = status.state == "recording" and status.trades > 0 and quiet_ns >= limits.quiet_ns
        has_ended, why = status.state == "ended", f": {status.notice}" if status.notice else ""
        return [
            *self._once(STALLED, "status", not (seen.is_dead or has_ended) and old_ns >= limits.silent_status_ns,
                        f"the recorder has not reported for {_lasted(old_ns)}", status.symbols, status.updated_ns),
            *self._once(STALLED, "connection", apart_ns >= limits.unconnected_ns,
                        f"not connected for {_lasted(apart_ns)}{why}", status.symbols, self._connected_ns),
            *self._once(STALLED, "quiet", quiet, f"no trade for {_lasted(quiet_ns)} of market hours",
                        status.symbols, self._traded_ns),
            *self._once(NOTHING_RECEIVED, "nothing", unheard,
                        f"no trade since the recording began, {_lasted(quiet_ns)} of market hours ago",
                        status.symbols, self._traded_ns),
        ]  # fmt: skip

    def _disk(self, seen: Seen) -> list[Event]:
        low = seen.free_bytes < self._limits.disk_reserves * seen.reserve_bytes
        reason = f"{seen.free_bytes / 2**30:,.1f} GiB free; at {seen.reserve_bytes / 2**30:,.1f} GiB the session ends"
        counts = {"free_bytes": seen.free_bytes, "reserve_bytes": seen.reserve_bytes}
        return self._once(DISK_LOW, "disk", low, reason, (), seen.now_ns, **counts)

    def _death(self, seen: Seen) -> list[Event]:
        reason = f"the recorder (process {seen.status.pid}) ended without a record of its session"
        return self._once(
            RECORDER_DIED, "death", seen.is_dead, reason, seen.status.symbols, seen.status.updated_ns,
            trades=seen.status.trades,
        )  # fmt: skip

    def _once(
        self, name: str, what: str, holds: bool, reason: str, symbols: Iterable[str], start_ns: int, **counts: int
    ) -> list[Event]:
        is_new = holds and what not in self._told
        (self._told.add if holds else self._told.discard)(what)
        return [self._event(name, reason, symbols, **_times(start_ns, None), **counts)] if is_new else []

    def _event(self, name: str, reason: str, symbols: Iterable[str], **payload: Any) -> Event:
        return Event(name, f"tape.session.{self._session}", reason, _named(symbols) | payload)


def emit(event: Event) -> None:
    """Queue an event for Prefect and log it; never raises and never waits for the API."""
    _log().warning("%s: %s: %s", event.name, event.resource, plain(event.reason))
    # Without an address Prefect would start a server for the event.
    if is_alone() or get_current_settings().api.url is None:
        return
    try:
        emit_event(
            event.name,
            {"prefect.resource.id": event.resource, "prefect.resource.name": event.resource.split(".", 2)[-1]},
            payload=event.payload | {"reason": plain(event.reason)[:_TEXT_LENGTH]},
        )
    except Exception as error:
        _log().warning("the event %s was not sent: %s", event.name, type(error).__name__)


@contextmanager
def recorders_reported(settings: Settings, limits: Limits | None = None) -> Iterator[None]:
    """Emit events about the recorders that this process starts or joins in the block, from a thread of its own."""
    first = len(watched)
    with meanwhile(lambda over: _report(settings, limits, first, over), wait_s=5.0):
        yield


def _report(settings: Settings, limits: Limits | None, first: int, over: threading.Event) -> None:
    begun_ns, known = time.time_ns(), dict[str, SessionEvents]()
    is_last = False
    while not is_last:
        is_last = over.wait(_LOOK_EVERY_S)  # One more look after the end.
        for recorder in watched[first:][-1:]:
            try:
                session = recorder.request.session
                events = known.setdefault(session, SessionEvents(session, begun_ns, limits))
                for event in _seen_events(recorder, events, settings):
                    emit(event)
            except Exception as error:  # An alarm is worth no trade.
                _log().warning("the recorder was not looked at: %s", type(error).__name__)


def _seen_events(recorder: Recorder, events: SessionEvents, settings: Settings) -> list[Event]:
    is_dead = not recorder.is_alive and record_of(recorder.request) is None
    status = recorder.status()
    if status is None:
        return []
    return events.look(
        Seen(
            now_ns=time.time_ns(), status=status, gaps=tuple(read_gaps(recorder.request.folder / GAPS_FILE)[0].all),
            is_dead=is_dead, hours=recorder.wanted.hours, free_bytes=shutil.disk_usage(settings.data_dir).free,
            reserve_bytes=settings.disk_reserve_bytes,
        )
    )  # fmt: skip


def emit_of_ledger(ledger: Ledger, *, at_rest: bool = True) -> None:
    """Emit what a session's ledger has for an alarm: quarantined trades and, if it is `at_rest`, broken laws."""
    record, trades = ledger.record, ledger.trades
    resource = f"tape.session.{record.session}"
    about = _times(record.started_ns, record.ended_ns) | {"feed": record.feed}
    quarantined = trades.quarantined + trades.refused
    if quarantined:
        why = ", ".join(f"{reason} {count:,}" for reason, count in ledger.reasons.items())
        counts = {"quarantined": quarantined, "received": trades.received, "reasons": dict(ledger.reasons)}
        emit(Event(QUARANTINE, resource, f"{quarantined:,} trades are in quarantine ({why})", about | counts))
    if at_rest and not ledger.balances:
        laws = ledger.imbalances()
        emit(Event(LEDGER_UNBALANCED, resource, "; ".join(laws), about | {"laws": len(laws)}))


def emit_of_recovered(records: Iterable[SessionRecord]) -> None:
    """Emit that these sessions' recorders had died, each with its longest gap."""
    for record in records:
        longest = max(record.gaps, key=lambda gap: (gap.end_ns or gap.start_ns) - gap.start_ns, default=None)
        times = _times(record.ended_ns, None) if longest is None else _times(longest.start_ns, longest.end_ns)
        payload = _named(record.symbols) | times | {"feed": record.feed, "gaps": len(record.gaps)}
        emit(Event(RECORDER_DIED, f"tape.session.{record.session}", str(record.error), payload))


def emit_of_uploads(settings: Settings, reason: str | None) -> None:
    """Emit that uploads failed, if something waits for the bucket after archiving ended with `reason`."""
    bucket = bucket_of(settings)
    if reason is None or bucket is None:
        return
    store, catalog = Store(settings.data_dir), Catalog(Store(settings.data_dir))
    try:
        counts = {
            "batches": len(catalog.awaiting_upload(bucket.place)),
            "sessions": len(sessions_awaiting_upload(store, bucket)),
            "days": len(catalog.days_awaiting_upload(bucket.place)),
        }
    except (RecorderError, OSError) as error:
        _log().warning("what waits for %s is not known: %s", bucket, error)
        return
    if any(counts.values()):
        emit(Event(UPLOAD_FAILED, f"tape.bucket.{bucket.name}", reason, counts))


def emit_of_short_day(date: str, reason: str, account: Account) -> None:
    """Emit that a trading day was not recorded as configured."""
    request, shares = account.request, account.coverage.per_symbol
    worst = sorted(request.current, key=lambda name: (shares[name].hours_share or 0.0) if name in shares else 0.0)
    payload = {
        "trades": account.trades, "coverage": account.coverage.hours_share, "gaps": len(account.coverage.gaps),
        "feed": request.feed,
    }  # fmt: skip
    times = _times(request.start_ns, request.until_ns)
    emit(Event(DAY_SHORT, f"tape.day.{request.feed}.{date}", reason, _named(worst) | times | payload))


def _named(symbols: Iterable[str]) -> dict[str, Any]:
    """Return the first symbols by name, and how many there are; a session can have thousands."""
    known = list(symbols)
    return {"symbols": [plain(symbol) for symbol in known[:_SYMBOLS_NAMED]], "symbol_count": len(known)}


def _times(start_ns: int, end_ns: int | None) -> dict[str, str]:
    """Return the interval as ISO 8601 in UTC; an end that has not come is empty."""
    return {"start": _iso(start_ns), "end": "" if end_ns is None else _iso(end_ns)}


def _iso(ns: int) -> str:
    return utc_text(ns).replace(" ", "T")


def _lasted(ns: int) -> str:
    return format_duration(ns // NS_PER_S * NS_PER_S)


def _log() -> Any:
    with suppress(MissingContextError):
        return get_run_logger()
    return logging.getLogger(__name__)
