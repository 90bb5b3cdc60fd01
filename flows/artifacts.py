"""Artifacts that a run shows on its page in Prefect's UI, beside the page of a recording (`run_page.py`).

Artifacts are for people: if the API does not answer, the run must neither fail nor wait, so errors are only logged.
"""

from collections.abc import Sequence

from prefect import get_run_logger
from prefect.artifacts import create_table_artifact

from flows.orchestrator import beside, is_alone
from tasks.records.ledger import Ledger
from tasks.retain.rule import Retained

_WITHIN_S = 10.0


def show_ledgers(ledgers: Sequence[Ledger]) -> None:
    """Log every broken law, and create one artifact with a row for each session that was archived."""
    log = get_run_logger()
    for ledger in ledgers:
        for broken in ledger.imbalances():
            log.error("%s: %s", ledger.record.session, broken)
    if is_alone() or not ledgers:
        return
    rows = [
        {
            "session": each.record.session, "outcome": each.record.outcome, "trades": each.trades.archived,
            "quarantined": each.trades.quarantined + each.trades.refused, "batches": each.batches.archived,
            "waiting": each.batches.waiting, "gaps": len(each.record.gaps), "balances": each.balances,
        }
        for each in ledgers
    ]  # fmt: skip
    balanced = sum(each.balances for each in ledgers)
    _create(rows, "archived-sessions", f"{len(ledgers):,} sessions, {balanced:,} balance; `tape show` has each in full")


def show_retained(retained: Retained) -> None:
    """Create an artifact of what was deleted."""
    rows = [
        {"file": each.file, "bytes": each.bytes, "why": each.why, "held in": ", ".join(each.held_in)}
        for each in retained.removed
    ]
    said = f"{len(retained.removed):,} files, {retained.bytes:,} bytes, each proven to be elsewhere"
    _create(rows, "removed", said)


def _create(rows: list[dict[str, object]], key: str, description: str) -> None:
    def create() -> None:
        try:
            create_table_artifact(table=rows, key=key, description=description)
        except Exception as error:
            get_run_logger().warning("could not create the artifact %s: %s", key, type(error).__name__)

    beside(create, _WITHIN_S)
