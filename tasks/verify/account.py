"""What is one session's ledger, added up from the small records beside its batches?"""

from collections import Counter

from tasks.days import day_receipt, day_record, held_by, removed
from tasks.errors import TerminalError
from tasks.ledger import BatchCounts, FrameCounts, Ledger, SessionRecord, TradeCounts
from tasks.manifest import Place, Receipt, read
from tasks.store import Store
from tasks.verify.standing import Standing, batches_of, standing


def ledger_for(store: Store, session: str, upload_to: Place | None = None) -> Ledger:
    """The ledger of a session that has ended: its own record beside what its batches say, wherever they stand.

    With `upload_to` a batch that has not gone to that bucket, by itself or in its day's file, breaks a law too. Reads
    no trade. Raises TerminalError where the session has no record yet, and CorruptionError where a record cannot be
    read.
    """
    path = store.sessions / session / "session.json"
    try:
        record = read(path, SessionRecord)
    except FileNotFoundError as error:
        raise TerminalError(f"{path}: the session has no record; if it records no more, run `tape archive`") from error
    batches = [standing(store, name) for name in batches_of(store, session).get(session, [])]
    if upload_to is None:
        return balance(record, batches)
    return balance(record, batches, sum(_is_uploaded(store, batch, upload_to) for batch in batches))


def balance(record: SessionRecord, batches: list[Standing], uploaded: int | None = None) -> Ledger:
    """The ledger of a session from its record and its batches; `uploaded` of them, where an upload is expected."""
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
        uploaded=sum(batch.receipt is not None for batch in batches) if uploaded is None else uploaded,
    )
    return Ledger(
        record=record, frames=frames, trades=trades, batches=counts,
        upload_expected=uploaded is not None, per_symbol=dict(sorted(per_symbol.items())),
    )  # fmt: skip


def _is_uploaded(store: Store, batch: Standing, place: Place) -> bool:
    """Whether that bucket has acknowledged the batch, or the day's file that it was merged into."""
    if batch.receipt is not None and batch.receipt.is_of(place):
        return True
    if batch.manifest is None or (said := removed(batch.record)) is None or said.why != "merged":
        return False
    path = day_record(store, batch.seal.feed, batch.seal.date)
    receipt_path = day_receipt(path)
    if not path.exists() or not receipt_path.exists():
        return False
    (file, held), receipt = held_by(path), read(receipt_path, Receipt)
    acknowledged = file == f"{receipt.batch}.parquet" and receipt.is_of(place)
    return acknowledged and held.get(str(batch.name)) == batch.manifest
