"""Builds a session's ledger and a run's account from the small records beside the batches."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks.archive.batch_facts import BatchFacts, reasons_of, total_counts
from tasks.archive.catalog import Batch, Catalog
from tasks.archive.missing_numbers import missing_and_named
from tasks.errors import TerminalError
from tasks.records.coverage import asked_spans, coverage
from tasks.records.ledger import BatchCounts, Coverage, FrameCounts, Ledger, Request, SessionRecord, TradeCounts
from tasks.records.manifest import Place
from tasks.records.names import BatchName, is_session_name
from tasks.records.sessions import RECORD_FILE, record_of
from tasks.storage.store import Store


def ledger_for(store: Store, session: str, upload_to: Place | None = None) -> Ledger:
    """Return a session's ledger: its own record compared with its batches' records, at whatever stage they are.

    For a running session the ledger covers what is known so far. With `upload_to`, a batch that is not in that bucket
    (by itself or in its day's file) breaks a law too. Reads no trades. Raises TerminalError if the session has no
    record, and CorruptionError if a record cannot be read.
    """
    catalog = Catalog(store)
    batches = [catalog.batch(name) for name in catalog.names(session).get(session, [])]
    record = _record(store, session, batches)
    if upload_to is None:
        return balance(record, batches)
    return balance(record, batches, sum(_is_uploaded(catalog, batch, upload_to) for batch in batches))


def brief_ledger(store: Store, catalog: Catalog, session: str, names: Iterable[BatchName]) -> Ledger:
    """Return the same ledger from the catalog's summaries; it balances if and only if that of `ledger_for` does.

    Its `per_symbol` has a single total for all symbols. Raises the same errors as `ledger_for`.
    """
    has_ended = (store.sessions / session / RECORD_FILE).exists()
    record = _record(store, session, [] if has_ended else [catalog.batch(name) for name in names])
    facts = [catalog.facts(name) for name in names]
    return _ledger(record, facts, {"*": sum(each.by_symbol for each in facts)}, None)


def _record(store: Store, session: str, batches: list[Batch]) -> SessionRecord:
    record = record_of(store.sessions / session, [batch.seal for batch in batches])
    if record is None:
        raise TerminalError(f"{store.sessions / session}: the session has no record; restore it from a copy")
    return record


def balance(record: SessionRecord, batches: list[Batch], uploaded: int | None = None) -> Ledger:
    """Return a session's ledger from its record and batches; `uploaded` is how many are in the bucket, if expected."""
    per_symbol = Counter[str]()
    for batch in batches:
        per_symbol.update(batch.manifest.report.per_symbol if batch.manifest else {})
    in_lanes = sorted(batches, key=lambda batch: batch.name)
    return _ledger(record, [batch.facts for batch in in_lanes], per_symbol, uploaded)


def _ledger(
    record: SessionRecord, batches: list[BatchFacts], per_symbol: Mapping[str, int], uploaded: int | None
) -> Ledger:
    acknowledged = sum(batch.acknowledged is not None for batch in batches)
    counts = BatchCounts(
        sealed=len(batches),
        validated=sum(batch.state != "sealed" for batch in batches),
        archived=sum(batch.state == "archived" for batch in batches),
        uploaded=acknowledged if uploaded is None else uploaded,
    )
    return Ledger(
        record=record, frames=total_counts([each.frames for each in batches], FrameCounts),
        trades=total_counts([each.trades for each in batches], TradeCounts), batches=counts,
        upload_expected=uploaded is not None, per_symbol=dict(sorted(per_symbol.items())), reasons=reasons_of(batches),
        missing_ids=_missing_ids(record, batches),
    )  # fmt: skip


def _missing_ids(record: SessionRecord, batches: list[BatchFacts]) -> tuple[int, int] | None:
    """Count missing trade numbers, and those of them in recorded gaps; None if that is not known (yet)."""
    is_known = all(batch.state != "sealed" for batch in batches)
    return missing_and_named(batches, record.gaps) if is_known and any(each.trade_ids for each in batches) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The result of a run's request: how much of its time was received, and its trades by symbol.

    `per_symbol` has every symbol that was ever requested, with the trades received while it was.
    """

    request: Request
    coverage: Coverage
    per_symbol: dict[str, int]

    @property
    def trades(self) -> int:
        """The number of trades of its symbols received in its time."""
        return sum(self.per_symbol.values())


def account_of(store: Store, request: Request) -> Account:
    """Return the account of a request over all sessions of its feed, including running ones.

    Raises the same errors as `trades_within`, and CorruptionError if a session's record cannot be read.
    """
    # Imported here because they load the row readers, which a ledger does not need.
    from tasks.verify.rows import Rows
    from tasks.verify.within import trades_within

    asked, found, records = asked_spans(request), Counter[str](), sessions_for(store, request)
    with TemporaryDirectory(prefix="tape-account-") as folder:
        rows = Rows(store, Path(folder))
        for record in records:
            found.update(trades_within(store, record.session, asked, rows))
    symbols = dict.fromkeys((*request.symbols, *(change.symbol for change in request.changes)))
    per_symbol = {symbol: found[symbol] for symbol in symbols}
    return Account(request=request, coverage=coverage([request], records), per_symbol=per_symbol)


def sessions_for(store: Store, request: Request) -> list[SessionRecord]:
    """Return the records of the request's feed that overlap its time, oldest first, running sessions included.

    Raises CorruptionError if one cannot be read.
    """
    folders = [folder for folder in sorted(store.sessions.glob("*")) if is_session_name(folder.name)]
    records = [record for folder in folders if (record := record_of(folder)) is not None]
    return [each for each in records if each.feed == request.feed and _overlaps(request, each)]


def _overlaps(request: Request, record: SessionRecord) -> bool:
    later = record.outcome == "recording" or request.start_ns < record.ended_ns
    return later and record.started_ns < request.end_ns


def _is_uploaded(catalog: Catalog, batch: Batch, place: Place) -> bool:
    """Return whether the bucket has acknowledged the batch, or the day's file that contains it."""
    if batch.receipt is not None and batch.receipt.is_of(place):
        return True
    return batch.manifest is not None and catalog.is_merged_in(place, batch.record, batch.manifest)
