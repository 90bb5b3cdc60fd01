"""What is one session's ledger, and one run's account, added up from the small records beside the batches?"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks.archive.day_files import day_receipt, day_record, held_by, removed
from tasks.archive.trade_numbers import missing_and_named
from tasks.errors import TerminalError
from tasks.records.coverage import asked_spans, coverage
from tasks.records.ledger import BatchCounts, Coverage, FrameCounts, Ledger, Request, SessionRecord, TradeCounts
from tasks.records.manifest import Place, Receipt, Report, read
from tasks.records.names import is_session_name
from tasks.records.sessions import record_of
from tasks.storage.store import Store
from tasks.verify.rows import Rows
from tasks.verify.standing import Standing, batches_of, standing
from tasks.verify.within import trades_within


def ledger_for(store: Store, session: str, upload_to: Place | None = None) -> Ledger:
    """The ledger of a session: its own record beside what its batches say, wherever they stand.

    Of one that has not ended it says what is known so far. With `upload_to` a batch that has not gone to that bucket,
    by itself or in its day's file, breaks a law too. Reads no trade. Raises TerminalError where nothing is known of
    the session itself, and CorruptionError where a record cannot be read.
    """
    batches = [standing(store, name) for name in batches_of(store, session).get(session, [])]
    record = record_of(store.sessions / session, [batch.seal for batch in batches])
    if record is None:
        raise TerminalError(f"{store.sessions / session}: there is no record of that session; restore it from a copy")
    if upload_to is None:
        return balance(record, batches)
    return balance(record, batches, sum(_is_uploaded(store, batch, upload_to) for batch in batches))


def balance(record: SessionRecord, batches: list[Standing], uploaded: int | None = None) -> Ledger:
    """The ledger of a session from its record and its batches; `uploaded` of them, where an upload is expected."""
    frames, per_symbol, refused_reasons = FrameCounts(), Counter[str](), Counter[str]()
    for batch in batches:
        frames += batch.seal.frames
        refused_reasons.update(batch.seal.refused_reasons)
        if batch.manifest is not None:
            per_symbol.update(batch.manifest.report.per_symbol)
    reasons = refused_reasons
    reports = [batch.report for batch in batches if batch.report is not None]
    for report in reports:
        reasons.update(report.reasons)
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
        odd_conditions=sum(report.odd_conditions for report in reports),
        to_validate=sum(batch.seal.rows for batch in batches if batch.report is None),
        to_archive=sum(batch.report.valid for batch in batches if batch.report and batch.manifest is None),
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
        reasons=dict(reasons.most_common()),
        missing_ids=_missing_ids(record, batches, reports),
    )  # fmt: skip


def _missing_ids(record: SessionRecord, batches: list[Standing], reports: list[Report]) -> tuple[int, int] | None:
    """How many trade numbers are missing, and how many in named gaps; None where that is not known, or not yet."""
    is_numbered = any("trade_id" in batch.seal.extra_columns for batch in batches)
    return missing_and_named(reports, record.gaps) if is_numbered and len(reports) == len(batches) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What came of a run's request: how much of its time was received, and its trades by symbol.

    `per_symbol` has every symbol that it ever asked for, with the trades received while it did.
    """

    request: Request
    coverage: Coverage
    per_symbol: dict[str, int]

    @property
    def trades(self) -> int:
        """The trades of its symbols that were received in its time."""
        return sum(self.per_symbol.values())


def account_of(store: Store, request: Request) -> Account:
    """The account of a request over every session of its feed, those that still record included, as far as is known.

    Raises as `trades_within`, and CorruptionError where a session's record cannot be read.
    """
    asked, found, records = asked_spans(request), Counter[str](), list[SessionRecord]()
    with TemporaryDirectory(prefix="tape-account-") as folder:
        rows = Rows(store, Path(folder))
        for session in (each for each in sorted(store.sessions.glob("*")) if is_session_name(each.name)):
            record = record_of(session)
            if record is not None and record.feed == request.feed and _overlaps(request, record):
                records.append(record)
                found.update(trades_within(store, record.session, asked, rows))
    symbols = dict.fromkeys((*request.symbols, *(change.symbol for change in request.changes)))
    per_symbol = {symbol: found[symbol] for symbol in symbols}
    return Account(request=request, coverage=coverage([request], records), per_symbol=per_symbol)


def _overlaps(request: Request, record: SessionRecord) -> bool:
    later = record.outcome == "recording" or request.start_ns < record.ended_ns
    return later and record.started_ns < request.end_ns


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
