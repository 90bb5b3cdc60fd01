"""The archive, as the page shows it: a calendar of days and sessions, any of them to open, report on, or download."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from tape.completeness import NOT_RECORDED, Completeness, completeness_of
from tape.dashboard.archived import Archived
from tape.dashboard.model import DayShown, DayState, SessionShown
from tape.holdings import ListedSession, Row, shown
from tape.selection import in_bucket, local, sessions_of
from tasks.archive.batch_facts import BatchFacts
from tasks.archive.catalog import Catalog
from tasks.errors import RecorderError, TerminalError
from tasks.feeds.registry import never_closes
from tasks.market.hours import exchange_zone
from tasks.query.ask import write
from tasks.query.coverage import regular_hours
from tasks.query.day_view import records_touching
from tasks.query.prints import quoted
from tasks.query.sources import sources_of
from tasks.query.views import connect
from tasks.records.ledger import Ledger, SessionRecord
from tasks.records.names import BatchName, in_order, is_session_name
from tasks.records.sessions import RECORD_FILE, is_recording, record_of
from tasks.storage.store import Store, state_of, unfinished
from tasks.upload.bucket import Bucket
from tasks.upload.object_store import ObjectStore
from tasks.zones import date_in, dates_between, day_span

_TRADES = "SELECT * FROM trades WHERE symbol = {symbol} ORDER BY ts_event, ts_recv, session, connection, recv_seq"

# What distinguishes a session from itself before a change, the session, and its record if it is here.
_Known = tuple[object, SessionShown, SessionRecord | None]


class Archive:
    """What a data folder and its bucket hold. Its methods take up to seconds: call them in a thread."""

    def __init__(self, store: Store, calendar: str, now_ns: Callable[[], int], bucket: Bucket | None = None) -> None:
        self._store, self._calendar, self._now_ns, self._bucket = store, calendar, now_ns, bucket
        self._sessions: dict[str, _Known] = {}
        self._complete: dict[tuple[object, ...], Completeness] = {}

    def calendar(self) -> tuple[tuple[DayShown, ...], tuple[SessionShown, ...]]:
        """Return every day from the first recorded one until today, and every session; oldest first.

        What has not changed since the last call is not computed again.
        """
        now_ns, catalog = self._now_ns(), Catalog(self._store)
        found = [self._session(catalog, *each, now_ns) for each in catalog.sessions().items()]
        sessions = tuple(shown for _, shown, _ in found)
        records = {record.session: record for _, _, record in found if record}
        trades = dict.fromkeys((day for each in sessions for day in each.days), 0)
        for day, names in catalog.by_day().items():
            trades[day] = sum(each.trades.archived for each in _facts(catalog, names))
        zone = exchange_zone(self._calendar).key
        dates = dates_between(zone, day_span(min(trades), zone)[0], now_ns) if trades else []
        shown_days = (
            self._day(date, trades.get(date, 0), [each for each in sessions if date in each.days], records, now_ns)
            for date in sorted({*dates, *trades})
        )
        return tuple(shown_days), sessions

    def _session(self, catalog: Catalog, session: str, names: list[BatchName], now_ns: int) -> _Known:
        """Return a session with its record, and what distinguishes it from itself before a change."""
        path, facts = self._store.sessions / session / RECORD_FILE, _facts(catalog, names)
        stage = [(each.state, each.acknowledged is not None) for each in facts]
        key = (state_of(path.stat()), tuple(stage)) if path.exists() else None
        known = self._sessions.get(session)
        if known is None or key is None or known[0] != key:
            listed = ListedSession(self._store, catalog, session, names, now_ns)
            days = listed.days or {day for day, some in catalog.by_day().items() if not some.keys().isdisjoint(names)}
            row = {name: each for name, each in listed.row().items() if name != "bytes"}
            known = self._sessions[session] = (key, SessionShown(**row, days=tuple(sorted(days))), listed.record)
        return known

    def in_bucket(self) -> dict[str, set[str]]:
        """Return the days of each session in the bucket."""
        found: dict[str, set[str]] = {}
        if self._bucket is not None:
            keys = self._bucket.keys
            for key in filter(keys.holds_manifest, ObjectStore(self._bucket).keys(keys.batches)):
                _, date, name = keys.batch_at(key)
                found.setdefault(name.session, set()).add(date)
        return found

    def day_of(self, what: str, at_ns: int) -> str:
        """Return the day to which a moment of that session or day belongs."""
        return date_in(exchange_zone(self._calendar).key, at_ns) if is_session_name(what) else what

    def open(self, what: str, *, remote: bool = False, note: Callable[[float], object] = lambda _: None) -> Archived:
        """Open a session or a day (YYYY-MM-DD), from here or from the bucket; `note` is called with the share read.

        Raises TerminalError if there is no such session or day, or if its rows are only in the bucket; and the errors
        of reading it.
        """
        store, names = self._found(what, remote)
        if not names:
            raise TerminalError(f"{what}: not found in {self._bucket if remote else store.root}; choose another")
        if is_session_name(what):
            record = record_of(store.sessions / what)
            return Archived(store, what, names, [] if record is None else [record], note)
        return Archived(store, what, names, records_touching(store, what, what), note)

    def report(self, what: str, *, remote: bool = False) -> tuple[Row, Ledger | None]:
        """Return what `tape show` says of a session or day: counts, reasons of quarantine, laws, gaps, completeness."""
        store, _ = self._found(what, remote)
        return shown(store, what, self._now_ns(), self._calendar)

    def download(self, symbol: str, day: str, out: Path, *, remote: bool = False) -> int:
        """Write a symbol's trades of a day to a new file, .csv or .parquet; return how many there are.

        Raises TerminalError if it has none.
        """
        if remote:
            chosen = in_bucket(self._store.root, self._known_bucket(), (day,), (symbol,))
        else:
            chosen = local(self._store, (day,))
        chosen.check_symbols((symbol,), ())
        sources, sessions = sources_of(chosen.store, chosen.manifests, (symbol,)), sessions_of(self._calendar)
        with connect(sources, sessions=sessions, out=unfinished(out)) as database:
            return write(database, _TRADES.format(symbol=quoted(symbol)), out)

    def _found(self, what: str, remote: bool) -> tuple[Store, list[BatchName]]:
        """Return the folder that has the rows, and the batches of that session or day, in order."""
        of_session = is_session_name(what)
        if remote:
            days = tuple(sorted(self.in_bucket().get(what, ()))) if of_session else (what,)
            chosen = in_bucket(self._store.root, self._known_bucket(), days or (what,))
            names = [BatchName.parse(path.name) for path in chosen.manifests]
            return chosen.store, in_order(name for name in names if name.session == what or not of_session)
        catalog = Catalog(self._store)
        if of_session:
            return self._store, catalog.names(what).get(what, [])
        waiting = {*self._store.sealed_batches(), *self._store.validated_batches()}
        of_day = {name for name in waiting if catalog.batch(name).seal.date == what}
        return self._store, in_order({*catalog.by_day().get(what, {}), *of_day})

    def _known_bucket(self) -> Bucket:
        if self._bucket is None:
            raise TerminalError("TAPE_S3_BUCKET: is not set; name the bucket that holds the archive")
        return self._bucket

    def _day(
        self, date: str, trades: int, sessions: list[SessionShown], records: dict[str, SessionRecord], now_ns: int
    ) -> DayShown:
        known = [records[each.session] for each in sessions if each.session in records]
        state: DayState = "unknown"
        share = None
        if known:
            found = self._completeness(date, known, now_ns)
            share = found.share
            reasons = {reason for pieces in found.missing.values() for _, reason in pieces}
            lost: DayState = "short" if NOT_RECORDED in reasons else "gaps"
            state = "closed" if share is None else lost if reasons else "complete"
        elif not sessions:
            whole = day_span(date, exchange_zone(self._calendar).key)
            hours = regular_hours(sessions_of(self._calendar)(*whole), date)
            always = any(never_closes(each.feed, symbol) for each in records.values() for symbol in each.symbols)
            state = "missing" if hours or always else "closed"
        return DayShown(
            date=date, state=state, share=share, sessions=tuple(each.session for each in sessions), trades=trades,
            is_recording=any(is_recording(self._store.sessions / each.session) for each in sessions),
        )  # fmt: skip

    def _completeness(self, date: str, records: list[SessionRecord], now_ns: int) -> Completeness:
        """Return how complete a day is; that of a day that is over is computed once."""
        is_over = now_ns >= max(day_span(date, each.zone)[1] for each in records)
        key = (date, is_over, *((each.session, each.outcome, each.ended_ns, len(each.gaps)) for each in records))
        if not is_over or key not in self._complete:
            self._complete[key] = completeness_of(records, date, sessions_of(self._calendar), now_ns)
        return self._complete[key]


def _facts(catalog: Catalog, names: Iterable[BatchName]) -> list[BatchFacts]:
    """Return the facts of these batches; of one that cannot be read, its session says so."""
    found = []
    for name in names:
        with suppress(RecorderError):
            found.append(catalog.facts(name))
    return found
