"""What archived batches hold, from their records alone."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.archive.batch_facts import BatchFacts, reasons_of, total_counts
from tasks.records.ledger import TradeCounts
from tasks.records.manifest import Manifest, read


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Totals of some archived batches. `uploaded` counts those with a receipt from any bucket.

    `reasons` counts why rows are in quarantine, and `structural` the batches that are there as a whole. Refused trades,
    which could not become rows, are in quarantine too.
    """

    batches: int
    trades: TradeCounts
    bytes: int
    uploaded: int
    out_of_order: int
    late: int
    structural: int
    reasons: dict[str, int]


def holding(batches: Collection[BatchFacts]) -> Holding:
    """Add up what these archived batches hold."""
    return Holding(
        batches=len(batches), trades=total_counts([each.trades for each in batches], TradeCounts),
        bytes=sum(each.bytes for each in batches), uploaded=sum(each.acknowledged is not None for each in batches),
        out_of_order=sum(each.out_of_order for each in batches), late=sum(each.late for each in batches),
        structural=sum(each.rejected_whole for each in batches), reasons=reasons_of(batches),
    )  # fmt: skip


def per_symbol(manifests: Iterable[Path]) -> dict[str, int]:
    """Count the archived trades of each symbol in these manifests. Raises CorruptionError if one is unreadable."""
    found = Counter[str]()
    for path in manifests:
        found.update(read(path, Manifest).report.per_symbol)
    return dict(sorted(found.items()))
