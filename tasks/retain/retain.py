"""Applies the retention rule: removes files that are due, and never the only copy.

Each removal is proven, then recorded, then done, under the locks of the day and batch. The next run finishes one that
was killed. A due file without a proven copy is kept, with the reason.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from tasks.archive.side_records import receipt_of
from tasks.errors import CorruptionError, RecorderError, TerminalError
from tasks.records.manifest import Day, Manifest, Removed, encode, read
from tasks.records.names import DAY_FOLDERS, BatchName, batches_in, feed_and_date, parquet, removed_record
from tasks.retain.proof import Bucket, ClosedDay, NotYet, batch_there
from tasks.retain.rule import Gone, Kept, Remote, Retained, Rule, Why
from tasks.storage.store import Store, at_work_in, sha256_of, sync, write_whole

_NO_BUCKET = "no bucket is set, so that what is here is the only copy: by age or for space nothing is removed"


@dataclass(frozen=True, slots=True)
class _File:
    """A removable file of a batch (with its manifest) or of a day, and the record that stays beside it."""

    path: Path
    record: Path
    manifest: Manifest | None


@dataclass(slots=True)
class _Work:
    """One run: its inputs, and its results so far."""

    store: Store
    rule: Rule
    now_ns: Callable[[], int]
    bucket: Bucket | None
    removed: list[Gone]
    kept: dict[str, Kept]


def retain(
    store: Store, rule: Rule, now_ns: Callable[[], int], free_bytes: Callable[[], int], remote: Remote | None
) -> Retained:
    """Remove files that are due by the rule, oldest day first; return what was removed, and what is due but kept.

    `now_ns` returns the time (UTC ns), `free_bytes` the free space on the data folder's disk. Raises TransientError if
    the data folder cannot be read.
    """
    if rule.is_off:
        return Retained()
    work = _Work(store, rule, now_ns, None if remote is None else Bucket(remote), [], {})
    with at_work_in(store.root, "tape close"):
        store.prepare()
        for day in _days(store):
            _of_day(work, day, lambda file, closed: _due(work, file, closed))
        wanted_bytes = rule.free_bytes
        if wanted_bytes is not None:
            for day in takewhile(lambda _: free_bytes() < wanted_bytes, _days(store)):
                _of_day(work, day, lambda *_: ["space"] if free_bytes() < wanted_bytes else [])
    return Retained(tuple(work.removed), tuple(work.kept.values()))


def _days(store: Store) -> list[tuple[str, str]]:
    """Return (date, feed) of every day that has archived files, oldest first."""
    found = {*store.archive.glob(DAY_FOLDERS), *store.days.glob(DAY_FOLDERS)}
    return sorted((date, feed) for feed, date in {feed_and_date(path) for path in found})


def _of_day(work: _Work, day: tuple[str, str], due: Callable[[_File, ClosedDay | None], list[Why]]) -> None:
    date, feed = day
    store, record = work.store, work.store.day_record(feed, date)
    if not any((*store.archive_folder(feed, date).glob("[!._]*"), *record.parent.glob(parquet("*")))):
        return
    with store.locked(f"day-{feed}-{date}"):
        try:
            closed = ClosedDay(store, record, read(record, Day), work.bucket) if record.exists() else None
            files = list(_files(store, feed, date, closed))
        except CorruptionError as error:
            _keep(work, record, error)
            return
        for file in files:
            for why in due(file, closed):
                if _removed(work, file, closed, why):
                    break


def _files(store: Store, feed: str, date: str, closed: ClosedDay | None) -> Iterator[_File]:
    """Yield the local files of a day: those of its batches, then its own."""
    folder = store.archive_folder(feed, date)
    # Old days consist of records only and far outnumber the others, so their records are not read.
    for name in sorted(batches_in(path.name for path in folder.glob("[!._]*"))):
        record = folder / BatchName.parse(name).manifest
        if not record.exists():
            continue  # The batch is being archived.
        manifest = read(record, Manifest)
        if manifest.file is not None and record.with_name(manifest.file).exists():
            yield _File(record.with_name(manifest.file), record, manifest)
    if closed is not None and closed.file is not None and closed.file.exists():
        yield _File(closed.file, closed.record, None)


def _due(work: _Work, file: _File, closed: ClosedDay | None) -> list[Why]:
    """Return the age rules by which a file is due; ages count from when the day or file was written here."""
    now_ns, due = work.now_ns(), list[Why]()
    keep_ns = work.rule.batches_for_ns
    if file.manifest is not None and closed is not None and keep_ns is not None:
        due += ["merged"] if now_ns - closed.record.stat().st_mtime_ns >= keep_ns else []
    keep_ns = work.rule.local_for_ns
    if keep_ns is not None and now_ns - file.path.stat().st_mtime_ns >= keep_ns:
        due.append("age")
    return due


def _removed(work: _Work, file: _File, closed: ClosedDay | None, why: Why) -> bool:
    """Remove a file, or record why it is kept; return whether it is gone."""
    with ExitStack() as locks:
        if file.manifest is not None:
            locks.enter_context(work.store.locked(BatchName.parse(file.manifest.batch)))
        try:
            held_in = _proven(work, file, closed, why)
            size = file.path.stat().st_size
            _record(work, file, why, held_in)
            if why == "merged" and work.bucket is not None:
                _remove_there(work, work.bucket, file)
            file.path.unlink()
            sync(file.path.parent)
        except FileNotFoundError:
            return True  # Another run has removed it.
        except (RecorderError, OSError) as error:
            _keep(work, file.path, error)
            return False
    name = file.path.relative_to(work.store.root).as_posix()
    work.removed.append(Gone(name, size, why, held_in))
    work.kept.pop(name, None)
    return True


def _proven(work: _Work, file: _File, closed: ClosedDay | None, why: Why) -> tuple[str, ...]:
    """Return where else the file's rows are. Raises NotYet, CorruptionError, and the bucket's errors."""
    if file.manifest is not None and sha256_of(file.path) != file.manifest.sha256:
        raise CorruptionError(f"{file.path}: its SHA-256 is not that of its manifest; restore it from a copy")
    if why == "merged" and file.manifest is not None and closed is not None:
        closed.check_holds(file.manifest)
        here = closed.here()
        closed.check_rows()
        if work.bucket is None:
            return (here,)
        # Its manifest and quarantined rows were uploaded with it; a restore elsewhere needs them.
        work.bucket.check_acknowledged(receipt_of(file.record), f"{file.record}: the batch")
        return (here, closed.there())
    if work.bucket is None:
        raise NotYet(_NO_BUCKET)
    if file.manifest is not None:
        return (batch_there(file.record, file.manifest, work.bucket, closed),)
    assert closed is not None  # noqa: S101 - it is a closed day's file
    closed.here()
    return (closed.there(),)


def _record(work: _Work, file: _File, why: Why, held_in: tuple[str, ...]) -> None:
    name = file.path.stem if file.manifest is None else file.manifest.batch
    said = Removed(batch=name, file=file.path.name, removed_ns=work.now_ns(), why=why, held_in=held_in)
    write_whole(removed_record(file.record), encode(said))


def _remove_there(work: _Work, bucket: Bucket, file: _File) -> None:
    """Remove the batch's own object from the bucket, since the day's object has its rows; records a denied removal.

    Raises TransientError; the local file then stays, so that a later run tries again.
    """
    receipt = receipt_of(file.record)
    assert receipt is not None  # noqa: S101 - acknowledged
    assert receipt.object is not None  # noqa: S101 - as any batch with a file
    try:
        bucket.remove(receipt.object.key)
    except TerminalError as error:
        work.kept[receipt.object.key] = Kept(receipt.object.key, str(error), wrong=False)


def _keep(work: _Work, path: Path, error: Exception) -> None:
    name = path.relative_to(work.store.root).as_posix()
    work.kept[name] = Kept(name, str(error), wrong=not isinstance(error, NotYet))
