"""What do `tape ls` and `tape show` say: the archive's own counts beside each session's ledger, as data and as text?"""

from pathlib import Path
from typing import Any

import msgspec

from tape import report
from tape.cli.rows import print_rows
from tape.report import count
from tasks.archive.day_files import is_closed
from tasks.errors import RecorderError, TerminalError
from tasks.query.day_view import days_of
from tasks.query.holdings import Holding, by_day, holding, lag_ms
from tasks.query.sources import sources_of
from tasks.records.coverage import day_coverage, notable, session_coverage
from tasks.records.ledger import Gap, Ledger, SessionRecord
from tasks.records.names import BatchName, is_session_name
from tasks.storage.store import Store, feed_and_date
from tasks.verify.account import ledger_for
from tasks.verify.standing import sessions_of

Row = dict[str, Any]


def days_and_sessions(store: Store, now_ns: int) -> tuple[list[Row], list[Row]]:
    """A row for each day and for each session, oldest first."""
    manifests = by_day(store)
    by_session: dict[str, list[Path]] = {}
    for path in (path for paths in manifests.values() for path in paths):
        by_session.setdefault(BatchName.parse(path.name).session, []).append(path)
    sessions = {session: _Session(store, session, by_session.get(session, [])) for session in sessions_of(store)}
    days = sorted({*manifests, *(day for each in sessions.values() for day in each.days(now_ns))})
    return (
        [
            _day(store, day, manifests.get(day, []), _touching(sessions, day, manifests.get(day, []), now_ns))
            for day in days
        ],
        [each.row() for each in sessions.values()],
    )


class _Session:
    """A session as it is listed: its ledger, or why there is none."""

    def __init__(self, store: Store, session: str, manifests: list[Path]) -> None:
        self.session = session
        self.manifests = manifests
        self.ledger: Ledger | None = None
        self.is_readable = True
        try:
            self.ledger = ledger_for(store, session) if (store.sessions / session).is_dir() else None
        except RecorderError as error:
            # One session whose files are gone or damaged must not hide the others.
            report.errors.print(f"{session}: {error}")
            self.is_readable = False

    @property
    def record(self) -> SessionRecord | None:
        return self.ledger.record if self.ledger else None

    @property
    def balances(self) -> bool | None:
        """Whether its accounts agree; None where it has no record here, and so no account."""
        return self.ledger.balances if self.ledger else None if self.is_readable else False

    def days(self, now_ns: int) -> set[str]:
        return days_of(self.record, now_ns) if self.record else set()

    def row(self) -> Row:
        held, ledger = holding(self.manifests), self.ledger
        outcome = ledger.record.outcome if ledger else "no record" if self.is_readable else "unreadable"
        return {
            "session": self.session,
            "outcome": outcome,
            "batches": ledger.batches.sealed if ledger else held.batches,
            "archived": held.batches,
            "trades": held.trades,
            "bytes": held.bytes,
            "gaps": len(ledger.record.gaps) if ledger else 0,
            "uploaded": held.uploaded,
            "coverage": session_coverage(ledger.record).share if ledger else None,
            "balances": self.balances,
        }


def _touching(sessions: dict[str, _Session], day: str, manifests: list[Path], now_ns: int) -> list[_Session]:
    """The sessions that recorded on that day, those of which nothing is archived included."""
    archived = {BatchName.parse(path.name).session for path in manifests}
    return [each for each in sessions.values() if each.session in archived or day in each.days(now_ns)]


def _day(store: Store, day: str, manifests: list[Path], sessions: list[_Session]) -> Row:
    held = holding(manifests)
    covered = day_coverage([each.record for each in sessions if each.record], day)
    return {
        "date": day,
        "sessions": len(sessions),
        **_counts(held),
        "gaps": len(notable(covered.gaps)),
        "coverage": covered.share,
        "market_hours": covered.hours_share,
        "closed": bool(manifests) and _closed(store, manifests),
        "balances": _all_balance(sessions),
    }


def _all_balance(sessions: list[_Session]) -> bool | None:
    """Whether the accounts of all agree; None where that of one cannot be told."""
    said = [each.balances for each in sessions]
    return False if False in said else None if None in said else True


def shown(store: Store, what: str, now_ns: int) -> tuple[Row, Ledger | None]:
    """All that is known of a session or of a day, and a session's ledger, None where it has no record here.

    Raises TerminalError where there is no such session or day.
    """
    of_session = is_session_name(what)
    if of_session:
        manifests = [path for path in store.manifests() if BatchName.parse(path.name).session == what]
        sessions = [_Session(store, what, manifests)] if what in sessions_of(store) else []
    else:
        manifests = by_day(store).get(what, [])
        everything = {session: _Session(store, session, []) for session in sessions_of(store)}
        sessions = _touching(everything, what, manifests, now_ns)
    if not manifests and not sessions:
        near = report.did_you_mean(what, [*by_day(store), *sessions_of(store)])
        raise TerminalError(
            f"{what}: there is nothing of it in {store.root}; {near or '`tape ls` lists what there is'}"
        )
    held = holding(manifests)
    records = [each.record for each in sessions if each.record]
    covered = session_coverage(records[0]) if of_session and records else day_coverage(records, what)
    ledger = sessions[0].ledger if of_session and sessions else None
    return {
        ("session" if of_session else "date"): what,
        **_counts(held),
        "sessions": [each.session for each in sessions],
        "waiting": sum(each.ledger.batches.waiting for each in sessions if each.ledger),
        "coverage": covered.share,
        "market_hours": covered.hours_share,
        "coverage_by_symbol": {symbol: each.share for symbol, each in covered.per_symbol.items()},
        "gaps": [msgspec.to_builtins(gap) for gap in (ledger.record.gaps if ledger else notable(covered.gaps))],
        "quarantined": held.quarantined + held.refused,
        "refused": held.refused,
        "reasons": held.reasons,
        "structural": held.structural,
        "duplicates": held.duplicates,
        "out_of_order": held.out_of_order,
        "late": held.late,
        "per_symbol": held.per_symbol,
        "lag_ms": lag_ms(sources_of(store, manifests)),
        "balances": _all_balance(sessions),
    }, ledger


def print_days_and_sessions(days: list[Row], sessions: list[Row]) -> None:
    """Two lists, or that there is nothing."""
    if not days and not sessions:
        report.out.print("nothing is recorded here yet")
    for title, rows in (("days", days), ("sessions", sessions)):
        if rows:
            print(f"{title}:")
            print_rows(tuple(rows[0]), ([_cell(*item) for item in row.items()] for row in rows), as_csv=False)


def print_shown(found: Row, ledger: Ledger | None, data_dir: Path) -> None:
    """The ledger where there is one, then what the archive tells: counts, lag, reasons, gaps, symbols."""
    out = report.out
    if ledger is not None:
        report.print_ledger(ledger, data_dir)
    else:
        what, balances = found.get("date") or found.get("session"), found["balances"]
        hours = "" if found["market_hours"] is None else f", {report.share(found['market_hours'])} of market hours"
        covered = "" if found["coverage"] is None else (
            f"{report.share(found['coverage'])} of the time asked for was received{hours}, "
        )  # fmt: skip
        verdict = {True: "the accounts balance", None: "no record tells whether they balance"}
        report.line(
            f"{what}: {count(len(found['sessions']), 'session')}, {covered}{count(len(found['gaps']), 'gap')}; ",
            verdict.get(balances, "the accounts do NOT balance"),
        )
        report.print_gaps([msgspec.convert(gap, Gap) for gap in found["gaps"]], "`tape show --json` lists them")
    if found["waiting"]:
        out.print(f"{count(found['waiting'], 'batch')} wait to be archived: run `tape archive`", soft_wrap=True)
    out.print(
        f"{count(found['batches'], 'batch')} archived, {found['uploaded']:,} uploaded; "
        f"{count(found['trades'], 'trade')}, "
        f"{found['bytes']:,} bytes; {found['duplicates']:,} duplicates marked, {found['out_of_order']:,} out of order, "
        f"{found['late']:,} late",
        soft_wrap=True,
    )
    lag = ", ".join(f"{name} {value:,.1f}" for name, value in found["lag_ms"].items())
    out.print(f"receipt after the event, ms: {lag or 'no trade'}")
    reasons = ", ".join(f"{name} {number:,}" for name, number in found["reasons"].items())
    out.print(f"quarantined: {found['quarantined']:,}" + (f" ({reasons})" if reasons else ""), soft_wrap=True)
    out.print("trades by symbol:")
    for symbol, number in sorted(found["per_symbol"].items(), key=lambda item: (-item[1], item[0])):
        report.line(f"  {symbol:<24} {number:>12,}")


def _counts(held: Holding) -> Row:
    return {"batches": held.batches, "trades": held.trades, "bytes": held.bytes, "uploaded": held.uploaded}


def _closed(store: Store, manifests: list[Path]) -> bool:
    """Whether the merged files of that day hold all of these."""
    feeds = {feed_and_date(path.parent) for path in manifests}
    return all(is_closed(store, *each) for each in feeds)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if name == "closed":
        return "yes" if value else "not yet"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return report.share(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
