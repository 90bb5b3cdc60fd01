"""How do a ledger, a verdict and a doctor's findings look in a terminal, and as JSON?"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
from rich.console import Console
from rich.table import Table

from tasks.ledger import Gap, Ledger

out = Console(highlight=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


class Finding(Protocol):
    """One line of the doctor: what was looked at, whether it is well, and what is so or what to do."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def text(self) -> str: ...


def as_json(ledger: Ledger) -> dict[str, Any]:
    """A ledger as one flat object: the session's record, the counts by stage, and whether they agree."""
    whole: dict[str, Any] = msgspec.to_builtins(ledger)
    record = whole.pop("record")
    return {**record, **whole, "balances": ledger.balances, "imbalances": ledger.imbalances()}


def print_ledger(ledger: Ledger, data_dir: Path) -> None:
    """The ledger as a table of laws, then the gaps, then where the files lie."""
    record = ledger.record
    title = f"{record.session}: {len(record.symbols)} symbols, {record.outcome}"
    table = Table(title=title, title_justify="left", caption_justify="left")
    for heading in ("law", "count", "must equal", "count", ""):
        table.add_column(heading, justify="right" if "count" in heading else "left")
    for left, a, right, b in ledger.laws():
        table.add_row(left, f"{a:,}", right, f"{b:,}", "[green]holds[/green]" if a == b else "[red]BROKEN[/red]")
    out.print(table)
    trades, frames = ledger.trades, ledger.frames
    out.print(f"frames: {frames.trade:,} trade, {frames.control:,} control, {frames.rejected:,} rejected")
    out.print(f"trades: {trades.duplicates:,} duplicates marked, {trades.quarantined:,} quarantined")
    out.print(f"gaps: {len(record.gaps)}" + ("" if record.gaps else ", every symbol could be heard throughout"))
    for gap in record.gaps[:20]:
        out.print(f"  {gap_line(gap)}")
    if len(record.gaps) > 20:
        out.print(f"  … and {len(record.gaps) - 20} more in {data_dir}/sessions/{record.session}/session.json")
    if record.never_heard:
        out.print(f"never heard: {', '.join(record.never_heard[:20])}{' …' if len(record.never_heard) > 20 else ''}")
    for name, place in (
        ("archive", f"archive/feed={record.feed}/"),
        ("quarantine", "quarantine/"),
        ("log", f"sessions/{record.session}/recorder.log"),
    ):
        out.print(f"{name + ':':<11} {data_dir / place}", soft_wrap=True)
    verdict = "[green]the ledger balances[/green]" if ledger.balances else "[red]the ledger does NOT balance[/red]"
    out.print(verdict)


def print_verdict(verdict: Any) -> None:
    """What `verify` found: each broken law with its file, or that all hold."""
    for broken in verdict.broken:
        out.print(f"[red]broken[/red] {broken.law}: {broken.file}: {broken.message}", soft_wrap=True)
    for session in verdict.recording:
        out.print(f"{session}: still recording, not judged yet")
    if verdict.in_bucket_alone:
        alone = f"{verdict.in_bucket_alone:,} batches are in the bucket alone"
        out.print(f"[yellow]note[/yellow] {alone}: `tape verify --remote` proves them", soft_wrap=True)
    count = f"{verdict.sessions:,} sessions, {verdict.batches:,} batches, {verdict.trades:,} trades"
    out.print(f"{count}: " + (f"[red]{len(verdict.broken)} laws broken[/red]" if verdict.broken else "every law holds"))


def print_findings(findings: Sequence[Finding]) -> bool:
    """One line each; gives whether none is wrong."""
    marks = {"ok": "[green]ok   [/green]", "note": "[yellow]note [/yellow]", "wrong": "[red]wrong[/red]"}
    for finding in findings:
        out.print(f"{marks[finding.state]} {finding.name:<12} {finding.text}", soft_wrap=True)
    return all(finding.state != "wrong" for finding in findings)


def gap_line(gap: Gap) -> str:
    """From when to when, why, and whom it kept from being heard."""
    end_ns = gap.end_ns if gap.end_ns is not None else gap.start_ns
    names = ", ".join(gap.symbols[:5]) + (f" and {len(gap.symbols) - 5} more" if len(gap.symbols) > 5 else "")
    return f"{_utc(gap.start_ns)} to {_utc(end_ns)} ({(end_ns - gap.start_ns) / 1e9:.3f} s): {gap.reason}: {names}"


def _utc(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
