"""Splits a sealed batch into valid rows and quarantined lines with their reasons.

The step can be killed at any instruction and run again with the same result; once the report exists, it only removes
the sealed files. The column `resent` depends on the last rows before the batch, so earlier batches of the same session
and lane are validated first.
"""

import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import polars as pl

from tasks.errors import CorruptionError, TerminalError
from tasks.prefetch import prefetch
from tasks.records.manifest import Manifest, Report, Seal, encode, read
from tasks.records.names import BatchName
from tasks.records.trade import journal_header
from tasks.storage.store import Store, at_work_in, begun, publish, sha256_of, sync, write_whole
from tasks.validate.before import rows_before
from tasks.validate.lines import Slice, slices
from tasks.validate.order import Disorder, InOrder, Receipts, disorder
from tasks.validate.parts import Parts
from tasks.validate.resent import Resent
from tasks.validate.schema import Gate, Limits, rules

_LOG = logging.getLogger(__name__)


def split(store: Store, name: BatchName, limits: Limits) -> Report:
    """Split a sealed batch into valid rows (`validated/`) and quarantined lines, and return the report.

    A file that matches its seal but is not a journal goes to quarantine as a whole, with a report of no valid rows.
    Raises CorruptionError, and moves nothing, if the journal does not match its seal; TerminalError if there is no
    such batch; and TransientError if the disk is full or gone.
    """
    with at_work_in(store.root):
        store.prepare()
        # Before this batch's lock is acquired, so that no process waits for a lock while holding another.
        for earlier in _sealed_before(store, name):
            _split_earlier(store, earlier, limits)
        with store.locked(name):
            return _split_locked(store, name, limits)


def _sealed_before(store: Store, name: BatchName) -> list[BatchName]:
    """Return the batches right before this one that are not validated yet, oldest first; none if it is validated."""
    found, number = list[BatchName](), name.number
    while number and (store.sealed / BatchName(name.session, name.lane, number).seal).exists():
        number -= 1
        found.insert(0, BatchName(name.session, name.lane, number))
    return [each for each in found if (store.sealed / each.seal).exists()]


def _split_earlier(store: Store, name: BatchName, limits: Limits) -> None:
    """Split a batch that a later one needs; if that fails permanently, its own validation reports why."""
    try:
        with store.locked(name):
            _split_locked(store, name, limits)
    except TerminalError as error:
        _LOG.warning("%s: cannot be compared with the batch after it: %s", name, error)


def _split_locked(store: Store, name: BatchName, limits: Limits) -> Report:
    report = _done(store, name)
    if report is None:
        seal = _seal(store, name)
        report = _split_checked(store, name, seal, limits)
        write_whole(store.validated / name.seal, encode(seal))
        write_whole(store.validated / name.report, encode(report))
    # The seal is removed last: while it exists, the batch is listed and this step is run again.
    for path in (store.sealed / name.sealed, store.sealed / name.seal):
        path.unlink(missing_ok=True)
        sync(store.sealed)
    return report


def _done(store: Store, name: BatchName) -> Report | None:
    """Return the batch's report if it was split before."""
    manifest = store.manifest_of(name)
    if manifest is not None:
        return read(manifest, Manifest).report
    path = store.validated / name.report
    return read(path, Report) if path.exists() else None


def _seal(store: Store, name: BatchName) -> Seal:
    try:
        return read(store.sealed / name.seal, Seal)
    except FileNotFoundError as error:
        raise TerminalError(f"{error.filename}: no such sealed batch; look for it in {store.root}") from error


def _split_checked(store: Store, name: BatchName, seal: Seal, limits: Limits) -> Report:
    """Split while the journal is hashed; no file gets its final name before the hash matches the seal."""
    with ThreadPoolExecutor(1, "hash") as beside:
        checked = beside.submit(_check, store.sealed / name.sealed, store.sealed / name.seal, seal)
        try:
            return _split(store, name, seal, limits, checked)
        except Exception:
            checked.result()  # If the journal is damaged, report that rather than an error that followed from it.
            raise


def _check(journal: Path, seal_path: Path, seal: Seal) -> None:
    try:
        sha256 = sha256_of(journal)
    except FileNotFoundError as error:
        raise TerminalError(f"{journal}: no such sealed batch; look for it beside {seal_path}") from error
    if (journal.stat().st_size, sha256) != (seal.bytes, seal.sha256):
        raise CorruptionError(f"{journal}: does not match its seal {seal_path}; restore both from a copy")


def _split(store: Store, name: BatchName, seal: Seal, limits: Limits, checked: Future[None]) -> Report:
    journal = store.sealed / name.sealed
    with journal.open("rb") as file:
        header = file.read(len(expected := journal_header(seal.extra_columns)))
    if header != expected:
        checked.result()
        return _reject_whole(store, name, seal, f"it begins with {header[:60]!r} instead of a journal's header")
    report = _split_rows(store, name, seal, limits, checked, None)
    if report is None:
        # Rare: finding the lines that break the order requires the whole batch.
        checked.result()
        blamed = disorder(Receipts.all_of(prefetch(slices(journal, limits.slice_bytes)), seal), seal)
        report = _split_rows(store, name, seal, limits, checked, blamed)
        assert report is not None  # noqa: S101 - None is returned only without `blamed`
    return report


def _split_rows(
    store: Store, name: BatchName, seal: Seal, limits: Limits, checked: Future[None], blamed: Disorder | None
) -> Report | None:
    """Split line by line; None if the order is broken and the lines to blame (`blamed`) are not known yet."""
    judged = _judged(store.sealed / name.sealed, seal, limits, blamed)
    resent, before = Resent(), rows_before(store, name)
    resent.begin_after(before.hashes, before.ts_event_ns)
    places = store.validated / name.validated, store.quarantine / name.rejected_rows
    with Parts(*places, resent, seal) as parts:
        for piece, broken in prefetch(judged):
            if broken is None:
                return None
            parts.write(piece, broken)
        checked.result()
        return parts.publish()


def _judged(
    journal: Path, seal: Seal, limits: Limits, blamed: Disorder | None
) -> Iterator[tuple[Slice, pl.DataFrame | None]]:
    """Yield each slice with the rules that its rows break; yields None for the rules, and stops, at broken order."""
    gate, order = Gate(rules(seal, limits), seal.extra_columns), InOrder(seal)
    for piece in prefetch(slices(journal, limits.slice_bytes)):
        if blamed is None and not order.holds(Receipts.of(piece, seal)):
            yield piece, None
            return
        yield piece, gate.broken(piece.frame.with_columns(Disorder.columns(blamed, piece)))


def _reject_whole(store: Store, name: BatchName, seal: Seal, why: str) -> Report:
    journal, place = store.sealed / name.sealed, store.quarantine / name.rejected_batch
    _LOG.error("%s: the whole batch goes to quarantine: %s; look at %s", name, why, place)
    shutil.copyfile(journal, begun(place))
    publish(place)
    with Parts(store.validated / name.validated, store.quarantine / name.rejected_rows, Resent(), seal) as parts:
        parts.publish()
    return Report(
        rows=seal.rows, valid=0, quarantined=seal.rows, reasons={"structural": seal.rows}, resent=0, structural=why
    )
