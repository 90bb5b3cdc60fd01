"""Prints what `tape ls` and `tape show` found."""

from pathlib import Path
from typing import Any

import msgspec

from tape import report
from tape.cli.rows import print_rows
from tape.holdings import Row
from tasks.records.ledger import Gap, Ledger
from tasks.shown import count, share


def print_days_and_sessions(days: list[Row], sessions: list[Row]) -> None:
    """Print both lists, or that nothing is recorded."""
    if not days and not sessions:
        report.out.print("nothing is recorded here yet")
    for title, rows in (("days", days), ("sessions", sessions)):
        if rows:
            print(f"{title}:")
            print_rows(tuple(rows[0]), ([_cell(*item) for item in row.items()] for row in rows), as_csv=False)


def print_shown(found: Row, ledger: Ledger | None, data_dir: Path) -> None:
    """Print how complete a day is, or the ledger; then what the archive says: counts, lag, reasons, gaps, symbols."""
    from tape.cli.completeness import print_completeness

    out = report.out
    if found["completeness"] is not None:
        print_completeness(found["completeness"], found["date"])
    elif "date" in found:
        report.line(f"{found['date']}: not known to be complete: no record of its sessions is here")
    if ledger is not None:
        report.print_ledger(ledger, data_dir)
    else:
        what, balances = found.get("date") or found.get("session"), found["balances"]
        hours = "" if found["market_hours"] is None else f", {share(found['market_hours'])} of market hours"
        covered = "" if found["coverage"] is None else (
            f"{share(found['coverage'])} of the requested time was received{hours}, "
        )  # fmt: skip
        verdict = {True: "the ledger balances", None: "no record says whether it balances"}
        report.line(
            f"{what}: {count(len(found['sessions']), 'session')}, {covered}{count(len(found['gaps']), 'gap')}; ",
            verdict.get(balances, "the ledger does NOT balance"),
        )
        report.print_gaps([msgspec.convert(gap, Gap) for gap in found["gaps"]], "`tape show --json` lists them")
    if found["waiting"]:
        out.print(f"{count(found['waiting'], 'batch')} not archived yet: run `tape archive`", soft_wrap=True)
    out.print(
        f"{count(found['batches'], 'batch')} archived, {found['uploaded']:,} uploaded; "
        f"{count(found['trades'], 'trade')}, "
        f"{found['bytes']:,} bytes; {found['resent']:,} resent, {found['out_of_order']:,} out of order, "
        f"{found['late']:,} late",
        soft_wrap=True,
    )
    lag = ", ".join(f"{name} {value:,.1f}" for name, value in found["lag_ms"].items())
    out.print(f"lag from event to receipt, ms: {lag or 'no trades'}")
    reasons = ", ".join(f"{name} {number:,}" for name, number in found["reasons"].items())
    out.print(f"quarantined: {found['quarantined']:,}" + (f" ({reasons})" if reasons else ""), soft_wrap=True)
    out.print("trades by symbol:")
    for symbol, number in sorted(found["per_symbol"].items(), key=lambda item: (-item[1], item[0])):
        report.line(f"  {symbol:<24} {number:>12,}")


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if name == "closed":
        return "yes" if value else "not yet"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return share(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
