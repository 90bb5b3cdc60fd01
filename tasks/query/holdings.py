"""What does the archive hold, day by day and batch by batch, by its small records alone?"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.archive.batch_facts import BatchFacts, added, reasons_of
from tasks.records.ledger import TradeCounts
from tasks.records.manifest import Manifest, read


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Some archived batches: how many, with which trades and bytes; how many have a receipt, of whatever bucket.

    `reasons` counts why rows went to quarantine, and `structural` the batches that did so whole. Refused trades
    could not be rows: they are in quarantine too.
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
    """What these archived batches hold together."""
    return Holding(
        batches=len(batches), trades=added([each.trades for each in batches], TradeCounts),
        bytes=sum(each.bytes for each in batches), uploaded=sum(each.acknowledged is not None for each in batches),
        out_of_order=sum(each.out_of_order for each in batches), late=sum(each.late for each in batches),
        structural=sum(each.rejected_whole for each in batches), reasons=reasons_of(batches),
    )  # fmt: skip


def per_symbol(manifests: Iterable[Path]) -> dict[str, int]:
    """The archived trades of each symbol, by these manifests. Raises CorruptionError where one cannot be read."""
    found = Counter[str]()
    for path in manifests:
        found.update(read(path, Manifest).report.per_symbol)
    return dict(sorted(found.items()))
