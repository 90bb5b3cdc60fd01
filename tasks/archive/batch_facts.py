"""Summarizes the records of one batch as numbers: everything a list of many batches needs to know about each."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Literal, TypeVar

from tasks.records.ledger import FrameCounts, TradeCounts
from tasks.records.manifest import (
    Manifest,
    MissingIds,
    Place,
    Receipt,
    Report,
    Seal,
    TradeIds,
    quarantined_files,
)

State = Literal["sealed", "validated", "archived"]
Counts = TypeVar("Counts", FrameCounts, TradeCounts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """A receipt in short: the bucket, its endpoint (None for AWS), and the key of the batch's manifest there.

    `beside` is true if the receipt also acknowledges quarantine files.
    """

    bucket: str
    endpoint: str | None
    key: str
    beside: bool

    def is_of(self, place: Place) -> bool:
        """Return whether the receipt is for this bucket and prefix."""
        return place.holds(self.bucket, self.endpoint, self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFacts:
    """One batch in numbers, taken from its records; counts of stages it has not reached are 0.

    - `by_symbol` is the manifest's sum over its symbols, `bytes` the size of the archived file.
    - `rejected_whole`: no row of the journal could be read.
    - `has_quarantine`: the records name files in quarantine.
    - `trade_reasons` counts why trades could not become rows, `row_reasons` why rows failed validation.
    - The last three fields come from the validation report.
    """

    state: State
    frames: FrameCounts
    trades: TradeCounts
    trade_reasons: dict[str, int]
    row_reasons: dict[str, int]
    out_of_order: int = 0
    late: int = 0
    rejected_whole: bool = False
    has_quarantine: bool = False
    by_symbol: int = 0
    bytes: int = 0
    acknowledged: Acknowledged | None = None
    trade_ids: dict[str, TradeIds] = field(default_factory=dict)
    missing_ids: tuple[MissingIds, ...] = ()
    missing_ids_unlisted: int = 0


def facts_of(
    seal: Seal, report: Report | None = None, manifest: Manifest | None = None, receipt: Receipt | None = None
) -> BatchFacts:
    """Return the summary of one batch's records."""
    split = report or Report(rows=0, valid=0, quarantined=0)
    trades = TradeCounts(
        # The reader counts `received` (by the numbers it assigns); the writers count `journalled`.
        received=sum(each.rows for each in seal.connections) + seal.trades_refused, refused=seal.trades_refused,
        journalled=seal.rows, valid=split.valid, quarantined=split.quarantined,
        archived=manifest.rows if manifest else 0, resent=split.resent_rows, odd_conditions=split.odd_conditions,
        to_validate=0 if report else seal.rows, to_archive=0 if manifest else split.valid,
    )  # fmt: skip
    told = None if receipt is None else Acknowledged(
        bucket=receipt.bucket, endpoint=receipt.endpoint, key=receipt.manifest.key, beside=bool(receipt.beside)
    )  # fmt: skip
    return BatchFacts(
        state="archived" if manifest else "validated" if report else "sealed", frames=seal.frames, trades=trades,
        trade_reasons=seal.refused_reasons, row_reasons=split.reasons, out_of_order=split.out_of_order,
        late=split.late, rejected_whole=split.structural is not None,
        has_quarantine=manifest is not None and bool(quarantined_files(manifest)),
        by_symbol=sum(manifest.report.per_symbol.values()) if manifest else 0,
        bytes=manifest.bytes if manifest else 0, acknowledged=told, trade_ids=split.trade_ids,
        missing_ids=split.missing_ids, missing_ids_unlisted=split.missing_ids_unlisted,
    )  # fmt: skip


def total_counts(counts: Collection[Counts], kind: type[Counts]) -> Counts:
    """Return the field-by-field sum of these counts, without creating an intermediate record per addition."""
    return kind(**{each.name: sum(map(attrgetter(each.name), counts)) for each in fields(kind)})


def reasons_of(batches: Collection[BatchFacts]) -> dict[str, int]:
    """Count the reasons why trades could not become rows and why rows failed, most frequent first."""
    reasons = Counter[str]()
    for each in (*(batch.trade_reasons for batch in batches), *(batch.row_reasons for batch in batches)):
        if each:
            reasons.update(each)
    return dict(reasons.most_common())
