"""Artifacts that a run shows on its page in Prefect's UI.

Artifacts are for people: if the API does not answer, the run must not fail, so errors here are only logged.
"""

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.orchestrator import is_alone
from tasks.records.ledger import Ledger
from tasks.retain.rule import Retained
from tasks.shown import in_markdown
from tasks.zones import utc_text


def show_ledger(ledger: Ledger) -> None:
    """Create artifacts of the ledger and its gaps; an API that does not answer is only logged."""
    log = get_run_logger()
    if is_alone():
        return
    key = f"ledger-{ledger.record.session.lower()}"
    try:
        create_table_artifact(
            table=[
                {"law": left, "count": a, "must equal": right, "its count": b, "holds": a == b}
                for left, a, right, b in ledger.laws()
            ],
            key=key,
            description=f"{ledger.record.session}: {'balances' if ledger.balances else 'DOES NOT BALANCE'}",
        )
        if ledger.record.gaps:
            create_markdown_artifact(_gap_table(ledger), key=f"gaps-{ledger.record.session.lower()}")
    except Exception as error:
        log.warning("could not create the ledger artifact: %s", type(error).__name__)
    for broken in ledger.imbalances():
        log.error("%s: %s", ledger.record.session, broken)


def _gap_table(ledger: Ledger) -> str:
    lines = ["| from (UTC) | to (UTC) | seconds | symbols | reason |", "| --- | --- | --- | --- | --- |"]
    for gap in ledger.record.gaps:
        end_ns = gap.start_ns if gap.end_ns is None else gap.end_ns
        names = ", ".join(map(in_markdown, gap.symbols[:8])) + (" …" if len(gap.symbols) > 8 else "")
        start, end, seconds = utc_text(gap.start_ns), utc_text(end_ns), (end_ns - gap.start_ns) / 1e9
        lines.append(f"| {start} | {end} | {seconds:.1f} | {names} | {in_markdown(gap.reason)} |")
    return "\n".join(lines)


def show_retained(retained: Retained) -> None:
    """Create an artifact of what was deleted; an API that does not answer is only logged."""
    try:
        create_table_artifact(
            table=[
                {"file": each.file, "bytes": each.bytes, "why": each.why, "held in": ", ".join(each.held_in)}
                for each in retained.removed
            ],
            key="removed",
            description=f"{len(retained.removed):,} files, {retained.bytes:,} bytes, each proven to be elsewhere",
        )
    except Exception as error:
        get_run_logger().warning("could not create the artifact of deleted files: %s", type(error).__name__)
