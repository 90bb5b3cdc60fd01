"""Merges the archived batches of a day into one file, sorted by symbol and time and compared before it is published.

The step can be killed at any instruction and run again: the same batches give the same bytes, and a day whose file
already contains all batches is left alone. The batches stay where they are; if a batch's own file was removed, its
rows come from the existing day's file.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tasks.archive.catalog import Catalog
from tasks.archive.day_files import unmerged
from tasks.archive.same_rows import Source
from tasks.archive.side_records import removed
from tasks.errors import CorruptionError, TerminalError
from tasks.merge.written import MergeLimits, compare, write
from tasks.records.manifest import SOFTWARE, Day, Manifest, encode, read
from tasks.records.names import BatchName, parquet, removed_record
from tasks.storage.store import Store, at_work_in, begun, publish, sha256_of, sync, unfinished, write_whole

_LIMITS = MergeLimits()


def merge(store: Store, feed: str, date: str, limits: MergeLimits = _LIMITS) -> Day | None:
    """Merge the archived batches of a feed and day; returns None if there are none.

    On an error everything stays as it was. Raises CorruptionError if a batch's file does not match its manifest or the
    written file differs from the batches; TerminalError if the rows of a batch are only in the bucket; and
    TransientError if the disk is full or gone.
    """
    record = store.day_record(feed, date)
    with at_work_in(store.root, "tape close"), store.prepare().locked(f"day-{feed}-{date}"):
        manifests = tuple(read(path, Manifest) for path in store.manifests(feed, date))
        if not manifests:
            return None
        day = read(record, Day) if record.exists() else None
        if day is None or day.batches != manifests or not _is_there(record, day):
            _make(store, record.parent)
            day = _merged(store, record, feed, date, manifests, limits)
            write_whole(record, encode(day))
        _clear(record, day)
        return day


def _is_there(record: Path, day: Day) -> bool:
    """Return whether the day's file is here, or was removed because the bucket holds it."""
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
    """Remove our files that the record does not name, left by an earlier merge of fewer batches."""
    shutil.rmtree(_aside(record), ignore_errors=True)
    for path in record.parent.glob(parquet(f"{day.date}-*")):
        if path.name != day.file:
            path.unlink()
    gone = removed(record)
    if gone is not None and gone.file != day.file:
        removed_record(record).unlink()


def _aside(record: Path) -> Path:
    """Return the folder to which a merge spills rows that do not fit in memory."""
    return unfinished(record.with_suffix(".rows"))


def _merged(
    store: Store, record: Path, feed: str, date: str, manifests: tuple[Manifest, ...], limits: MergeLimits
) -> Day:
    held = [each for each in manifests if each.file is not None]
    rows = sum(each.rows for each in held)
    # Named after its batches, so that a file and its record always belong to the same merge, even after a kill.
    made_of = hashlib.sha256("\n".join(f"{each.batch} {each.sha256}" for each in manifests).encode()).hexdigest()
    target, digest, size = record.with_name(parquet(f"{date}-{made_of[:12]}")), "", 0
    if rows:
        facts = {"title": "trades of a day", "feed": feed, "date": date, "software": SOFTWARE}
        symbols = Counter[str]()
        for each in held:
            symbols.update(each.report.per_symbol)
        aside = _aside(record)
        shutil.rmtree(aside, ignore_errors=True)
        try:
            sources = _sources(store, record, held, aside, limits)
            (aside / "sorted").mkdir(parents=True)
            write(begun(target), facts, sources, symbols, aside / "sorted", limits)
            compare(unfinished(target), sources, rows, aside / "compared", limits)
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


def _sources(store: Store, record: Path, held: Sequence[Manifest], aside: Path, limits: MergeLimits) -> list[Source]:
    """Return a file with each batch's rows, after checking that it matches its record."""
    files, gone = dict[str, Path](), dict[str, Path]()
    for manifest in held:
        path = store.archive_folder(manifest.seal.feed, manifest.seal.date) / BatchName.parse(manifest.batch).manifest
        files[manifest.batch] = file = path.with_name(str(manifest.file))
        if not file.exists() and removed(path) is not None:
            day_file = Catalog(store).day_of_batch(path, manifest)
            if day_file is None:
                raise TerminalError(
                    f"{file}: was removed, and its day's file is not here; run `tape restore --date "
                    f"{manifest.seal.date}`, then close the day again"
                )
            gone[manifest.batch] = day_file
        elif _sha256(file) != manifest.sha256:
            raise CorruptionError(f"{file}: its SHA-256 differs from its manifest's; restore it from a copy")
    for day_file in set(gone.values()):
        if _sha256(day_file) != read(record, Day).sha256:
            raise CorruptionError(f"{day_file}: its SHA-256 differs from its record's; restore it from a copy")
        (aside / "batches").mkdir(parents=True)
        files |= unmerged(day_file, gone, aside / "batches", limits.sorting)
    return [Source(each.batch, files[each.batch]) for each in held]


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except FileNotFoundError as error:
        raise CorruptionError(f"{path}: is missing beside its manifest; restore it from a copy") from error
