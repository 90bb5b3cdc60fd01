"""What do `tape ls` and `tape show` say: the archive's own counts beside each session's ledger, as data and as text?"""

from pathlib import Path
from typing import Any

import msgspec

from flows import report
from flows.rows import print_rows
from tasks.batch import BatchName, is_session_name
from tasks.days import is_closed
from tasks.errors import RecorderError, TerminalError
from tasks.ledger import Gap, Ledger
from tasks.query.holdings import Holding, by_day, holding, lag_ms
from tasks.query.sources import sources_of
from tasks.store import Store, feed_and_date
from tasks.verify.account import ledger_for
from tasks.verify.standing import sessions_of

Row = dict[str, Any]


def days_and_sessions(store: Store) -> tuple[list[Row], list[Row]]:
    """A row for each day and for each session, oldest first."""
    days = by_day(store)
    by_session: dict[str, list[Path]] = {session: [] for session in sessions_of(store)}
    for path in (path for paths in days.values() for path in paths):
        by_session.setdefault(BatchName.parse(path.name).session, []).append(path)
    held = [(day, holding(paths)) for day, paths in days.items()]
    return (
        [
            {
                "date": day,
                "sessions": len(each.sessions),
                **_counts(each),
                "closed": _closed(store, days[day]),
                "balances": each.balances,
            }
            for day, each in held
        ],
        [_session(store, session, holding(paths)) for session, paths in sorted(by_session.items())],
    )


def shown(store: Store, what: str) -> tuple[Row, Ledger | None]:
    """All that is known of a session or of a day, and a session's ledger, None where it has no record here.

    Raises TerminalError where there is no such session or day.
    """
    of_session = is_session_name(what)
    if of_session:
        manifests = [path for path in store.manifests() if BatchName.parse(path.name).session == what]
    else:
        manifests = by_day(store).get(what, [])
    ledger = _ledger(store, what) if of_session else None
    if not manifests and ledger is None:
        raise TerminalError(f"{what}: there is nothing of it in {store.root}; `tape ls` lists days and sessions")
    held = holding(manifests)
    gaps = ledger.record.gaps if ledger else held.gaps
    found = {
        ("session" if of_session else "date"): what,
        **_counts(held),
        "sessions": list(held.sessions),
        "gaps": [msgspec.to_builtins(gap) for gap in gaps],
        "quarantined": held.quarantined,
        "reasons": held.reasons,
        "structural": held.structural,
        "duplicates": held.duplicates,
        "out_of_order": held.out_of_order,
        "late": held.late,
        "per_symbol": held.per_symbol,
        "lag_ms": lag_ms(sources_of(store, manifests)),
        "balances": ledger.balances if ledger else held.balances,
    }
    return found, ledger


def print_days_and_sessions(days: list[Row], sessions: list[Row]) -> None:
    """Two lists, or that there is nothing."""
    if not days and not sessions:
        report.out.print("nothing is recorded here yet")
    for title, rows in (("days", days), ("sessions", sessions)):
        if rows:
            print(f"{title}:")
            print_rows(tuple(rows[0]), ([_cell(value) for value in row.values()] for row in rows), as_csv=False)


def print_shown(found: Row, ledger: Ledger | None, data_dir: Path) -> None:
    """The ledger where there is one, then what the archive tells: counts, lag, reasons, gaps, symbols."""
    out = report.out
    if ledger is not None:
        report.print_ledger(ledger, data_dir)
    else:
        what = found.get("date") or found.get("session")
        out.print(f"{what}: {len(found['sessions'])} sessions, {len(found['gaps'])} gaps, "
                  f"{'balances' if found['balances'] else 'DOES NOT BALANCE'}", soft_wrap=True)  # fmt: skip
        for gap in found["gaps"][:20]:
            out.print(f"  {report.gap_line(msgspec.convert(gap, Gap))}", soft_wrap=True)
    out.print(
        f"{found['batches']:,} batches, {found['uploaded']:,} uploaded; {found['trades']:,} trades, "
        f"{found['bytes']:,} bytes; {found['duplicates']:,} duplicates marked, {found['out_of_order']:,} out of order, "
        f"{found['late']:,} late",
        soft_wrap=True,
    )
    lag = ", ".join(f"{name} {value:,.1f}" for name, value in found["lag_ms"].items())
    out.print(f"receipt after the event, ms: {lag or 'no trade'}")
    reasons = ", ".join(f"{name} {count:,}" for name, count in found["reasons"].items())
    out.print(f"quarantined: {found['quarantined']:,}" + (f" ({reasons})" if reasons else ""), soft_wrap=True)
    out.print("trades by symbol:")
    for symbol, count in sorted(found["per_symbol"].items(), key=lambda item: (-item[1], item[0])):
        out.print(f"  {symbol:<24} {count:>12,}")


def _counts(held: Holding) -> Row:
    return {
        "batches": held.batches, "trades": held.trades, "bytes": held.bytes, "gaps": len(held.gaps),
        "uploaded": held.uploaded,
    }  # fmt: skip


def _closed(store: Store, manifests: list[Path]) -> bool:
    """Whether the merged files of that day hold all of these."""
    feeds = {feed_and_date(path.parent) for path in manifests}
    return all(is_closed(store, *each) for each in feeds)


def _session(store: Store, session: str, held: Holding) -> Row:
    row: Row = {"session": session, "outcome": "no record", **_counts(held), "archived": held.batches}
    try:
        ledger = _ledger(store, session)
    except RecorderError as error:
        # One session whose files are gone or damaged must not hide the others.
        report.errors.print(f"{session}: {error}")
        return {**row, "outcome": "unreadable", "balances": False}
    if ledger is None:
        return {**row, "balances": held.balances}
    known = {"outcome": ledger.record.outcome, "batches": ledger.batches.sealed, "gaps": len(ledger.record.gaps)}
    return {**row, **known, "balances": ledger.balances}


def _ledger(store: Store, session: str) -> Ledger | None:
    if not (store.sessions / session / "session.json").exists():
        return None
    return ledger_for(store, session)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:,}" if isinstance(value, int) else str(value)
