"""Splits a sealed batch into valid rows and quarantined lines with their reasons.

A step that may be killed at any instruction and run again: it gives the same files, and once its report stands it
only clears away what the batch came from. The column `resent` depends on the last rows before the batch, so the
session's and lane's earlier batches are validated first, whichever was asked for.
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
    """Split a sealed batch into valid rows (`validated/`) and quarantined lines, and say how.

    A journal that is whole but no journal goes to quarantine as it is, with a report of no valid row. Raises
    CorruptionError, and moves nothing, where the journal is not what its seal says, TerminalError where there is no
    such batch, and TransientError where the disk is full or gone.
    """
    with at_work_in(store.root):
        store.prepare()
        # Before this batch's lock is taken: nobody holds the locks of two batches and waits for a third.
        for earlier in _sealed_before(store, name):
            _split_earlier(store, earlier, limits)
        with store.locked(name):
            return _split_locked(store, name, limits)


def _sealed_before(store: Store, name: BatchName) -> list[BatchName]:
    """The batches right before that one that are not validated yet, oldest first; none where it is validated."""
    found, number = list[BatchName](), name.number
    while number and (store.sealed / BatchName(name.session, name.lane, number).seal).exists():
        number -= 1
        found.insert(0, BatchName(name.session, name.lane, number))
    return [each for each in found if (store.sealed / each.seal).exists()]


def _split_earlier(store: Store, name: BatchName, limits: Limits) -> None:
    """Split a batch that is needed for a later one; where that fails for good its own validation says why."""
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
    # The seal last: as long as it lies there, the batch is listed and this step is run again.
    for path in (store.sealed / name.sealed, store.sealed / name.seal):
        path.unlink(missing_ok=True)
        sync(store.sealed)
    return report


def _done(store: Store, name: BatchName) -> Report | None:
    """The batch's report, where it was split before."""
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
    """Split while the journal is hashed; nothing gets its name before the hash is known to be the seal's."""
    with ThreadPoolExecutor(1, "hash") as beside:
        checked = beside.submit(_check, store.sealed / name.sealed, store.sealed / name.seal, seal)
        try:
            return _split(store, name, seal, limits, checked)
        except Exception:
            checked.result()  # Whatever a damaged journal led to, the damage is the error.
            raise


def _check(journal: Path, seal_path: Path, seal: Seal) -> None:
    try:
        sha256 = sha256_of(journal)
    except FileNotFoundError as error:
        raise TerminalError(f"{journal}: no such sealed batch; look for it beside {seal_path}") from error
    if (journal.stat().st_size, sha256) != (seal.bytes, seal.sha256):
        raise CorruptionError(f"{journal}: its bytes are not those of its seal {seal_path}; restore both from a copy")


def _split(store: Store, name: BatchName, seal: Seal, limits: Limits, checked: Future[None]) -> Report:
    journal = store.sealed / name.sealed
    with journal.open("rb") as file:
        header = file.read(len(expected := journal_header(seal.extra_columns)))
    if header != expected:
        checked.result()
        return _reject_whole(store, name, seal, f"it begins with {header[:60]!r} in place of a journal's header")
    report = _split_rows(store, name, seal, limits, checked, None)
    if report is None:
        # Seldom: who is to blame for a disorder can be said only when the whole batch is known.
        checked.result()
        blamed = disorder(Receipts.all_of(prefetch(slices(journal)), seal), seal)
        report = _split_rows(store, name, seal, limits, checked, blamed)
        assert report is not None  # noqa: S101 - with the blame given, nothing ends the split early
    return report


def _split_rows(
    store: Store, name: BatchName, seal: Seal, limits: Limits, checked: Future[None], blamed: Disorder | None
) -> Report | None:
    """Split line by line; None where some line is out of order and it is not yet known who is to blame."""
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
    """Each slice and the rules that its rows break; None in their place, and no more, where the order is broken."""
    gate, order = Gate(rules(seal, limits), seal.extra_columns), InOrder(seal)
    for piece in prefetch(slices(journal)):
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
