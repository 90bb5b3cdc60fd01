"""What does the archive hold, day by day and batch by batch, by its small records alone?"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.query.sources import Sources
from tasks.query.views import connect
from tasks.records.manifest import Manifest, Receipt, read
from tasks.records.names import BatchName
from tasks.storage.store import Store

# Of receive time less event time, in ms.
_LAG = """
SELECT quantile_cont(lag_ms, [0.5, 0.9, 0.99]), max(lag_ms)
FROM (SELECT (epoch_ns(ts_recv) - epoch_ns(ts_event)) / 1e6 AS lag_ms FROM trades)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Some archived batches: how many, from how many sessions, with which trades; how many have a receipt.

    `reasons` counts why rows went to quarantine, and `structural` the batches that did so whole. `refused` trades
    could not be rows: they are in quarantine too. `uploaded` counts the receipts, of whatever bucket.
    """

    sessions: tuple[str, ...]
    batches: int
    trades: int
    bytes: int
    uploaded: int
    quarantined: int
    refused: int
    duplicates: int
    out_of_order: int
    late: int
    structural: int
    reasons: dict[str, int]
    per_symbol: dict[str, int]


def holding(manifests: Iterable[Path]) -> Holding:
    """What these manifests say together. Raises CorruptionError where one cannot be read."""
    paths = list(manifests)
    found = [read(path, Manifest) for path in paths]
    reports = [each.report for each in found]
    reasons, per_symbol = Counter[str](), Counter[str]()
    for each in found:
        reasons.update(each.seal.refused_reasons)
    for report in reports:
        reasons.update(report.reasons)
        per_symbol.update(report.per_symbol)
    return Holding(
        sessions=tuple(sorted({BatchName.parse(each.batch).session for each in found})),
        batches=len(found),
        trades=sum(each.rows for each in found),
        bytes=sum(each.bytes for each in found),
        uploaded=sum(_has_receipt(path) for path in paths),
        refused=sum(each.seal.trades_refused for each in found),
        quarantined=sum(report.quarantined for report in reports),
        duplicates=sum(report.duplicates for report in reports),
        out_of_order=sum(report.out_of_order for report in reports),
        late=sum(report.late for report in reports),
        structural=sum(report.structural is not None for report in reports),
        reasons=dict(reasons.most_common()),
        per_symbol=dict(sorted(per_symbol.items())),
    )


def by_day(store: Store) -> dict[str, list[Path]]:
    """The manifests of each day (YYYY-MM-DD), oldest day first."""
    days: dict[str, list[Path]] = {}
    for path in store.manifests():
        days.setdefault(day_of(path), []).append(path)
    return dict(sorted(days.items()))


def day_of(manifest: Path) -> str:
    """The day in whose folder a manifest lies."""
    return manifest.parent.name.removeprefix("date=")


def lag_ms(sources: Sources) -> dict[str, float]:
    """Percentiles ("p50", "p90", "p99", "max") of receive time less event time, over the trades of these files."""
    with connect(sources) as database:
        row = database.execute(_LAG).fetchone()
    if row is None or row[1] is None:
        return {}
    return dict(zip(("p50", "p90", "p99", "max"), (*row[0], row[1]), strict=True))


def _has_receipt(manifest: Path) -> bool:
    try:
        read(manifest.with_name(BatchName.parse(manifest.name).receipt), Receipt)
    except FileNotFoundError:
        return False
    return True
