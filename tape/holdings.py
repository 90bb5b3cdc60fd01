"""What a data folder holds by day and session, and all that is known of one of them: `tape ls` and `tape show`."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from tape import report
from tasks.archive.catalog import Catalog
from tasks.errors import RecorderError, TerminalError
from tasks.query.day_view import days_of
from tasks.query.holdings import Holding, holding, per_symbol
from tasks.records.coverage import day_coverage, notable, session_coverage
from tasks.records.ledger import Ledger, SessionRecord
from tasks.records.names import BatchName, feed_and_date, is_session_name
from tasks.storage.store import Store
from tasks.verify.account import brief_ledger, ledger_for

Row = dict[str, Any]


def days_and_sessions(store: Store, now_ns: int) -> tuple[list[Row], list[Row]]:
    """Return a row for each day and each session, oldest first."""
    catalog = Catalog(store)
    by_day, sessions = catalog.by_day(), _sessions(store, catalog, now_ns)
    found = []
    for day in sorted({*by_day, *(day for each in sessions for day in each.days)}):
        archived = by_day.get(day, {})
        found.append(_day(catalog, day, archived, _touching(sessions, day, archived)))
    return found, [each.row() for each in sessions]


def _sessions(store: Store, catalog: Catalog, now_ns: int, only: str = "") -> list["ListedSession"]:
    """Return every session of which anything exists, or only one, oldest first."""
    return [
        ListedSession(store, catalog, session, names, now_ns)
        for session, names in catalog.sessions().items()
        if session.startswith(only)
    ]


class ListedSession:
    """A session as it is listed: its brief ledger, or why there is none, and the days it touches."""

    def __init__(self, store: Store, catalog: Catalog, session: str, names: list[BatchName], now_ns: int) -> None:
        self.session = session
        self._catalog, self._names = catalog, names
        self.ledger: Ledger | None = None
        self.is_readable = True
        try:
            is_here = (store.sessions / session).is_dir()
            self.ledger = brief_ledger(store, catalog, session, names) if is_here else None
        except RecorderError as error:
            # A session whose files are missing or damaged must not hide the others.
            report.errors.print(f"{session}: {error}")
            self.is_readable = False
        self.days = days_of(self.record, now_ns) if self.record else set[str]()

    @property
    def record(self) -> SessionRecord | None:
        return self.ledger.record if self.ledger else None

    @cached_property
    def balances(self) -> bool | None:
        """Whether its ledger balances; None if it has no local record and so no ledger."""
        return self.ledger.balances if self.ledger else None if self.is_readable else False

    def row(self) -> Row:
        held, ledger = _held(self._catalog, self._names), self.ledger
        outcome = ledger.record.outcome if ledger else "no record" if self.is_readable else "unreadable"
        return {
            "session": self.session,
            "outcome": outcome,
            "batches": ledger.batches.sealed if ledger else held.batches,
            "archived": held.batches,
            "trades": held.trades.archived,
            "bytes": held.bytes,
            "gaps": len(ledger.record.gaps) if ledger else 0,
            "uploaded": held.uploaded,
            "coverage": session_coverage(ledger.record).share if ledger else None,
            "balances": self.balances,
        }


def _held(catalog: Catalog, names: Iterable[BatchName]) -> Holding:
    """Return what the archived ones of these batches hold."""
    return holding([catalog.facts(name) for name in names if catalog.is_archived(name)])


def _touching(sessions: list[ListedSession], day: str, names: Iterable[BatchName]) -> list[ListedSession]:
    """Return the sessions that recorded on that day, including those with nothing archived."""
    archived = {name.session for name in names}
    return [each for each in sessions if each.session in archived or day in each.days]


def _day(catalog: Catalog, day: str, archived: dict[BatchName, Path], sessions: list[ListedSession]) -> Row:
    covered = day_coverage([each.record for each in sessions if each.record], day)
    feeds = {feed_and_date(folder) for folder in {*archived.values()}}
    return {
        "date": day,
        "sessions": len(sessions),
        **_counts(_held(catalog, archived)),
        "gaps": len(notable(covered.gaps)),
        "coverage": covered.share,
        "market_hours": covered.hours_share,
        "closed": bool(archived) and all(catalog.is_closed(*each) for each in feeds),
        "balances": _all_balance(sessions),
    }


def _all_balance(sessions: list[ListedSession]) -> bool | None:
    """Whether every ledger balances; None if any is unknown."""
    said = [each.balances for each in sessions]
    return False if False in said else None if None in said else True


def shown(store: Store, what: str, now_ns: int, calendar: str, feed: str | None = None) -> tuple[Row, Ledger | None]:
    """Return all that is known of a session or day, and the session's ledger, None if it has no local record.

    With a `feed`, only what came from it. Raises TerminalError if there is no such session or day.
    """
    # Imported here because they bring in the row readers, which `tape ls` does not need.
    from tape.completeness import completeness_of
    from tape.selection import sessions_of
    from tasks.query.sources import sources_of
    from tasks.query.views import lag_ms

    catalog, of_session = Catalog(store), is_session_name(what)
    by_day, everything = catalog.by_day(), _sessions(store, catalog, now_ns, what if of_session else "")
    if of_session:
        found = {name: path for paths in by_day.values() for name, path in paths.items() if name.session == what}
        archived, sessions = dict(sorted(found.items())), everything
    else:
        archived = by_day.get(what, {})
        sessions = _touching(everything, what, archived)
    if feed is not None:
        archived = {name: folder for name, folder in archived.items() if feed_and_date(folder)[0] == feed}
        of_feed = {name.session for name in archived}
        sessions = [each for each in sessions if (each.record.feed == feed if each.record else each.session in of_feed)]
    manifests = [folder / name.manifest for name, folder in archived.items()]
    if not archived and not sessions:
        near = report.did_you_mean(what, {*by_day, *catalog.sessions()} - {what})
        where = f"{store.root}" + (f", from {feed}" if feed else "")
        raise TerminalError(f"{what}: not found in {where}; {near or '`tape ls` lists what is there'}")
    held = _held(catalog, archived)
    records = [each.record for each in sessions if each.record]
    covered = session_coverage(records[0]) if of_session and records else day_coverage(records, what)
    ledger = ledger_for(store, what) if of_session and records else None
    whole = None if of_session or not records else completeness_of(records, what, sessions_of(calendar), now_ns)
    return {
        ("session" if of_session else "date"): what,
        **_counts(held),
        "sessions": [each.session for each in sessions],
        "waiting": sum(each.ledger.batches.waiting for each in sessions if each.ledger),
        "completeness": whole,
        "coverage": covered.share,
        "market_hours": covered.hours_share,
        "coverage_by_symbol": {symbol: each.share for symbol, each in covered.per_symbol.items()},
        "gaps": [msgspec.to_builtins(gap) for gap in (ledger.record.gaps if ledger else notable(covered.gaps))],
        "quarantined": held.trades.quarantined + held.trades.refused,
        "refused": held.trades.refused,
        "reasons": held.reasons,
        "structural": held.structural,
        "resent": held.trades.resent,
        "out_of_order": held.out_of_order,
        "late": held.late,
        "per_symbol": per_symbol(manifests),
        "lag_ms": lag_ms(sources_of(store, manifests)),
        "balances": _all_balance(sessions),
    }, ledger


def _counts(held: Holding) -> Row:
    return {"batches": held.batches, "trades": held.trades.archived, "bytes": held.bytes, "uploaded": held.uploaded}
