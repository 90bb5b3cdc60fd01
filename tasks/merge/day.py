"""How do the archived batches of a day become one file by symbol and time, equal row for row before it has its name?

A step that may be killed at any instruction and run again: the same batches give the same bytes, and a day whose
batches are in its file already is left as it is. The batches stay where they are; of one whose own file was removed
since, the rows come from the day's file that stands.
"""

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tasks.archive.catalog import Catalog
from tasks.archive.day_files import unmerged
from tasks.archive.same_rows import Source
from tasks.archive.side_records import removed
from tasks.errors import CorruptionError, TerminalError
from tasks.merge.written import compare, write
from tasks.records.manifest import SOFTWARE, Day, Manifest, encode, read
from tasks.records.names import BatchName, parquet, removed_record
from tasks.storage.store import Store, at_work_in, begun, publish, sha256_of, sync, unfinished, write_whole


def merge(store: Store, feed: str, date: str) -> Day | None:
    """Merge what is archived of that feed and day; None where nothing is.

    Raises, and leaves everything as it was: CorruptionError where a batch's file is not what its manifest says, or
    what was written differs from the batches in any value; TerminalError where the rows of one are in the bucket
    alone; TransientError where the disk is full or gone.
    """
    record = store.day_record(feed, date)
    with at_work_in(store.root, "tape close"), store.prepare().locked(f"day-{feed}-{date}"):
        manifests = tuple(read(path, Manifest) for path in store.manifests(feed, date))
        if not manifests:
            return None
        day = read(record, Day) if record.exists() else None
        if day is None or day.batches != manifests or not _is_there(record, day):
            _make(store, record.parent)
            day = _merged(store, record, feed, date, manifests)
            write_whole(record, encode(day))
        _clear(record, day)
        return day


def _is_there(record: Path, day: Day) -> bool:
    """Whether the day's file is here, or was removed because the bucket holds it."""
    if day.file is None:
        return True
    with suppress(FileNotFoundError):
        return record.with_name(day.file).stat().st_size == day.bytes
    gone = removed(record)
    return gone is not None and gone.file == day.file


def _make(store: Store, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for made in (store.root, store.days, folder.parent):
        sync(made)


def _clear(record: Path, day: Day) -> None:
    """Remove what an earlier merge of fewer batches left: files of ours that the record does not name."""
    shutil.rmtree(_aside(record), ignore_errors=True)
    for path in record.parent.glob(parquet(f"{day.date}-*")):
        if path.name != day.file:
            path.unlink()
    gone = removed(record)
    if gone is not None and gone.file != day.file:
        removed_record(record).unlink()


def _aside(record: Path) -> Path:
    """Where a merge lays aside what memory does not hold."""
    return unfinished(record.with_suffix(".rows"))


def _merged(store: Store, record: Path, feed: str, date: str, manifests: tuple[Manifest, ...]) -> Day:
    held = [each for each in manifests if each.file is not None]
    rows = sum(each.rows for each in held)
    # Named after what it is made of, so that a file and its record are of one merge, whenever a kill comes.
    made_of = hashlib.sha256("\n".join(f"{each.batch} {each.sha256}" for each in manifests).encode()).hexdigest()
    target, digest, size = record.with_name(parquet(f"{date}-{made_of[:12]}")), "", 0
    if rows:
        facts = {"title": "trades of a day", "feed": feed, "date": date, "software": SOFTWARE}
        symbols = {symbol for each in held for symbol in each.report.per_symbol}
        ms, aside = all(each.report.event_in_ms for each in held), _aside(record)
        shutil.rmtree(aside, ignore_errors=True)
        try:
            sources = _sources(store, record, held, aside)
            (aside / "sorted").mkdir(parents=True)
            write(begun(target), facts, sources, symbols, aside / "sorted", ms=ms)
            compare(unfinished(target), sources, rows, aside / "compared")
        except BaseException:
            unfinished(target).unlink(missing_ok=True)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        digest, size = _sha256(unfinished(target)), unfinished(target).stat().st_size
        publish(target)
    return Day(
        feed=feed, date=date, file=target.name if rows else None, software=SOFTWARE, rows=rows, bytes=size,
        sha256=digest, batches=manifests,
    )  # fmt: skip


def _sources(store: Store, record: Path, held: Sequence[Manifest], aside: Path) -> list[Source]:
    """For each batch a file of its rows, proven to be what its record says."""
    files, gone = dict[str, Path](), dict[str, Path]()
    for manifest in held:
        path = store.archive_folder(manifest.seal.feed, manifest.seal.date) / BatchName.parse(manifest.batch).manifest
        files[manifest.batch] = file = path.with_name(str(manifest.file))
        if not file.exists() and removed(path) is not None:
            day_file = Catalog(store).day_of_batch(path, manifest)
            if day_file is None:
                raise TerminalError(
                    f"{file}: was removed, and no file of its day is here; run `tape restore --date "
                    f"{manifest.seal.date}`, then close the day again"
                )
            gone[manifest.batch] = day_file
        elif _sha256(file) != manifest.sha256:
            raise CorruptionError(f"{file}: its SHA-256 is not that of its manifest; restore it from a copy")
    for day_file in set(gone.values()):
        if _sha256(day_file) != read(record, Day).sha256:
            raise CorruptionError(f"{day_file}: its SHA-256 is not that of its record; restore it from a copy")
        (aside / "batches").mkdir(parents=True)
        files |= unmerged(day_file, gone, aside / "batches")
    return [Source(each.batch, files[each.batch]) for each in held]


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except FileNotFoundError as error:
        raise CorruptionError(f"{path}: is missing beside its manifest; restore it from a copy") from error
