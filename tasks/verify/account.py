"""What is one session's ledger, added up from the small records beside its batches?"""

from collections import Counter

from tasks.batch import BatchName
from tasks.errors import TerminalError
from tasks.ledger import BatchCounts, FrameCounts, Ledger, SessionRecord, TradeCounts
from tasks.manifest import read
from tasks.store import Store
from tasks.verify.standing import Standing, batches_of, standing


def ledger_for(store: Store, session: str, upload_expected: bool = False) -> Ledger:
    """The ledger of a session that has ended: its own record beside what its batches say, wherever they stand.

    With `upload_expected` a batch that is not in the bucket breaks a law too. Reads no trade. Raises TerminalError
    where the session has no record yet, and CorruptionError where a record cannot be read.
    """
    path = store.sessions / session / "session.json"
    try:
        record = read(path, SessionRecord)
    except FileNotFoundError as error:
        raise TerminalError(f"{path}: the session has no record; if it records no more, run `tape archive`") from error
    names: list[BatchName] = batches_of(store, session).get(session, [])
    return balance(record, _with_records(store, names), upload_expected)


def balance(record: SessionRecord, batches: list[Standing], upload_expected: bool = False) -> Ledger:
    """The ledger of a session from its record and its batches."""
    frames, per_symbol = FrameCounts(), Counter[str]()
    for batch in batches:
        frames += batch.seal.frames
        if batch.manifest is not None:
            per_symbol.update(batch.manifest.report.per_symbol)
    reports = [batch.report for batch in batches if batch.report is not None]
    manifests = [batch.manifest for batch in batches if batch.manifest is not None]
    refused = sum(batch.seal.trades_refused for batch in batches)
    trades = TradeCounts(
        # Counted by the numbers that the reader gave out, the journalled by the writers.
        received=sum(each.rows for batch in batches for each in batch.seal.connections) + refused,
        refused=refused,
        journalled=sum(batch.seal.rows for batch in batches),
        valid=sum(report.valid for report in reports),
        quarantined=sum(report.quarantined for report in reports),
        archived=sum(manifest.rows for manifest in manifests),
        duplicates=sum(report.duplicates for report in reports),
    )
    counts = BatchCounts(
        sealed=len(batches),
        validated=len(reports),
        archived=len(manifests),
        uploaded=sum(batch.receipt is not None for batch in batches),
    )
    return Ledger(
        record=record, frames=frames, trades=trades, batches=counts,
        upload_expected=upload_expected, per_symbol=dict(sorted(per_symbol.items())),
    )  # fmt: skip


def _with_records(store: Store, names: list[BatchName]) -> list[Standing]:
    return [standing(store, name) for name in names]
