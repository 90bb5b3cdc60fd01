"""Prints ledgers, verdicts, and the doctor's findings, and turns ledgers into JSON."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks.duration import format_duration
from tasks.records.coverage import session_coverage
from tasks.records.ledger import Gap, Ledger
from tasks.shown import count, plain, share
from tasks.zones import utc_text

# No markup: rich would interpret symbols, paths, or vendor messages that look like it.
out = Console(highlight=False, markup=False, emoji=False)
errors = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def line(*parts: str | tuple[str, str], to: Console = out) -> None:
    """Print one line of texts, each with an optional style; control characters are shown escaped."""
    styled = [(plain(part), "") if isinstance(part, str) else (plain(part[0]), part[1]) for part in parts]
    to.print(Text.assemble(*styled), soft_wrap=True)


class Finding(Protocol):
    """One line of the doctor: what was checked, its state, and the result or the next step."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def text(self) -> str: ...


def tell(text: str) -> None:
    """Tell the user on stderr that a command deviates from the request, or what keeps it from working."""
    line(("tape:", "yellow"), f" {text}", to=errors)


def as_json(ledger: Ledger) -> dict[str, Any]:
    """Return a ledger as one flat object: session record, counts by stage, coverage, and whether it balances."""
    whole: dict[str, Any] = msgspec.to_builtins(ledger)
    record = whole.pop("record")
    covered = session_coverage(ledger.record)
    return {
        **record,
        **whole,
        "coverage": covered.share,
        "market_hours": covered.hours_share,
        "coverage_by_symbol": {symbol: each.share for symbol, each in covered.per_symbol.items()},
        "waiting": ledger.batches.waiting,
        "balances": ledger.balances,
        "imbalances": ledger.imbalances(),
    }


def print_ledger(ledger: Ledger, data_dir: Path) -> None:
    """Print the ledger: a table of laws, the gaps, where the files are, and a summary."""
    record = ledger.record
    table = Table(
        title=f"{record.session}: {count(len(record.symbols), 'symbol')}, {record.outcome}",
        title_justify="left", caption_justify="left",
    )  # fmt: skip
    for heading in ("law", "count", "must equal", "count", ""):
        table.add_column(heading, justify="right" if "count" in heading else "left")
    for left, a, right, b in ledger.laws():
        table.add_row(left, f"{a:,}", right, f"{b:,}", Text("holds", "green") if a == b else Text("BROKEN", "red"))
    out.print(table)
    trades, frames = ledger.trades, ledger.frames
    out.print(f"frames: {frames.trade:,} trade, {frames.control:,} control, {frames.rejected:,} rejected")
    why = ", ".join(f"{name} {number:,}" for name, number in ledger.reasons.items())
    out.print(
        f"trades: {trades.resent:,} resent, {trades.quarantined + trades.refused:,} quarantined"
        + (f" ({why})" if why else "")
        + (f", {trades.odd_conditions:,} with unexpected conditions" if trades.odd_conditions else ""),
        soft_wrap=True,
    )
    print_gaps(record.gaps, f"{data_dir}/sessions/{record.session}/session.json lists them")
    for text, number in record.vendor_errors.items():
        line(f"the feed reported {count(number, 'time')}: {text}")
    for name, symbols in (("never traded", record.never_heard), ("refused by the feed", record.refused)):
        if symbols:
            line(f"{name}: {', '.join(symbols[:20])}{' …' if len(symbols) > 20 else ''}")
    for name, place in (
        ("archive", f"archive/feed={record.feed}/"),
        ("quarantine", "quarantine/"),
        ("log", f"sessions/{record.session}/recorder.log"),
    ):
        out.print(f"{name + ':':<11} {data_dir / place}", soft_wrap=True)
    line(achieved(ledger))
    waiting = ledger.batches.waiting
    also = f"; {count(waiting, 'batch')} {'waits' if waiting == 1 else 'wait'} to be archived" if waiting else ""
    verdict = ("the ledger balances", "green") if ledger.balances else ("the ledger does NOT balance", "red")
    line(verdict, also)


def achieved(ledger: Ledger) -> str:
    """Summarize a session in one line: trades, symbols that traded, coverage, gaps."""
    record = ledger.record
    covered, lasted = session_coverage(record), format_duration((record.ended_ns - record.started_ns) // 10**9 * 10**9)
    spoke = f"{len(record.symbols) - len(record.never_heard):,} of {count(len(record.symbols), 'symbol')}"
    rest = f"{share(covered.share)} of the requested time was received, {count(len(record.gaps), 'gap')}"
    if record.listening_ns is None:
        return f"never connected in {lasted}; {rest}"
    if not ledger.trades.received:
        return f"connected for {lasted}, but received no trades; {rest}"
    return f"{count(ledger.trades.received, 'trade')} of {spoke} in {lasted}; {rest}"


def print_gaps(gaps: Sequence[Gap], where_all_are: str) -> None:
    """Print how many gaps there are, and the first twenty."""
    out.print(f"gaps: {len(gaps):,}" + ("" if gaps else ", every symbol could be received the whole time"))
    for gap in gaps[:20]:
        line(f"  {gap_line(gap)}")
    if len(gaps) > 20:
        out.print(f"  … and {len(gaps) - 20:,} more; {where_all_are}", soft_wrap=True)


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return `did you mean …?` with similar names, or an empty string."""
    spelled = {each.upper(): each for each in known}
    near = get_close_matches(given.upper(), spelled, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(spelled[each] for each in near)}?" if near else ""


def print_verdict(verdict: Any) -> None:
    """Print what `verify` found: each broken law with its file, or that every law holds."""
    for broken in verdict.broken:
        line(("broken", "red"), f" {broken.law}: {broken.file}: {broken.message}")
    for session in verdict.recording:
        out.print(f"{session}: still recording, not verified yet")
    for session in verdict.partial:
        out.print(f"{session}: partly restored; its local batches were verified, `tape restore` fetches the rest")
    if verdict.in_bucket_alone:
        alone = f"{verdict.in_bucket_alone:,} batches are only in the bucket"
        line(("note", "yellow"), f" {alone}: `tape verify --remote` verifies them")
    judged = (
        f"{count(verdict.sessions, 'session')}, {count(verdict.batches, 'batch')}, {count(verdict.trades, 'trade')}"
    )
    line(f"{judged}: ", (f"{len(verdict.broken)} laws broken", "red") if verdict.broken else "every law holds")


def print_findings(findings: Sequence[Finding]) -> bool:
    """Print one line for each finding; return whether none is wrong."""
    styles = {"ok": "green", "note": "yellow", "wrong": "red"}
    for finding in findings:
        line((f"{finding.state:<5}", styles[finding.state]), f" {finding.name:<12} {finding.text}")
    return all(finding.state != "wrong" for finding in findings)


def gap_line(gap: Gap) -> str:
    """Format a gap: from when to when, why, and which symbols could not be received."""
    names = ", ".join(gap.symbols[:5]) + (f" and {len(gap.symbols) - 5} more" if len(gap.symbols) > 5 else "")
    if gap.end_ns is None:
        return f"since {utc_text(gap.start_ns)}: {gap.reason}: {names}"
    seconds = (gap.end_ns - gap.start_ns) / 1e9
    return f"{utc_text(gap.start_ns)} to {utc_text(gap.end_ns)} ({seconds:.3f} s): {gap.reason}: {names}"
