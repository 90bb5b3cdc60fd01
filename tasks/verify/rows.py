"""Finds the file to check a batch's rows with: its own, or one extracted from its day's file if that was removed.

The rows of a batch that is only in the bucket cannot be checked from local files; its records say so.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.archive.catalog import Batch, Catalog
from tasks.archive.day_files import unmerged
from tasks.archive.side_records import removed
from tasks.errors import CorruptionError
from tasks.records.manifest import Day, Manifest, Removed, read
from tasks.records.names import removed_record
from tasks.storage.store import Store
from tasks.verify.broken import Broken, broken

# A session's batches are of one or two days in each of two time zones; no more days are extracted at once.
_DAYS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Found:
    """Where a batch's rows are.

    `own` is the batch's own file, if it should exist here. `readable` is the file with its rows, or None if no local
    file has them. `said` lists what is wrong with its records.
    """

    own: Path | None
    readable: Path | None
    said: tuple[Broken, ...] = ()


class Rows:
    """Finds the rows of batches; extracts from day files into `folder`. `in_bucket` are those only in the bucket."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._days: dict[Path, dict[str, Path] | str] = {}
        self.in_bucket: set[str] = set()

    def of(self, batch: Batch, manifest: Manifest) -> Found:
        """Find the file with an archived batch's rows."""
        own = None if manifest.file is None else batch.record.with_name(manifest.file)
        try:
            gone = removed(batch.record)
        except (CorruptionError, OSError) as error:
            return Found(own, own, (broken("readable", removed_record(batch.record), str(error)),))
        if gone is None:
            return Found(own, own)
        said = tuple(_wrong(batch, manifest, gone))
        if own is None or own.exists():
            return Found(own, own, said)
        return self._elsewhere(batch, manifest, own, gone, said)

    def _elsewhere(self, batch: Batch, manifest: Manifest, own: Path, gone: Removed, said: tuple[Broken, ...]) -> Found:
        record = self._store.day_record(batch.seal.feed, batch.seal.date)
        try:
            catalog = Catalog(self._store)
            day_file = catalog.day_of_batch(batch.record, manifest)
            if day_file is None and not _is_in_bucket(catalog, batch, manifest, gone):
                what = f"was removed, and neither its day's file nor a receipt says where its rows are ({gone.held_in})"
                return Found(None, None, (*said, broken("present", own, f"{what}; restore it from a copy")))
        except (CorruptionError, OSError) as error:
            return Found(None, None, (*said, broken("readable", record, str(error))))
        if day_file is None:
            self.in_bucket.add(manifest.batch)
            return Found(None, None, said)
        of_day = self._of_day(day_file, record)
        if isinstance(of_day, str):
            return Found(None, None, (*said, broken("readable", day_file, of_day)))
        return Found(None, of_day[manifest.batch], said)

    def _of_day(self, day_file: Path, record: Path) -> dict[str, Path] | str:
        """Extract the rows of all removed batches of a day at once; returns a message if that fails."""
        if day_file not in self._days:
            while len(self._days) >= _DAYS_AT_ONCE:
                old = next(iter(self._days))
                del self._days[old]
                shutil.rmtree(self._folder / old.stem / old.parent.parent.name)
            folder = self._folder / day_file.stem / day_file.parent.parent.name
            folder.mkdir(parents=True)
            try:
                self._days[day_file] = unmerged(day_file, list(_gone(self._store, read(record, Day))), folder)
            except (CorruptionError, FileNotFoundError) as error:
                self._days[day_file] = str(error)
        return self._days[day_file]


def _gone(store: Store, day: Day) -> Iterator[str]:
    """Yield the batches of a day whose own files do not exist here."""
    folder = store.archive_folder(day.feed, day.date)
    yield from (each.batch for each in day.batches if each.file and not (folder / each.file).exists())


def _wrong(batch: Batch, manifest: Manifest, gone: Removed) -> Iterator[Broken]:
    if (gone.batch, gone.file) != (manifest.batch, manifest.file):
        yield broken("removed", removed_record(batch.record), f"tells of {gone.file}, {batch.record.name} of another")


def _is_in_bucket(catalog: Catalog, batch: Batch, manifest: Manifest, gone: Removed) -> bool:
    """Return whether a receipt says that the bucket holds the batch's own object, or its day's."""
    own = batch.receipt
    if gone.why != "merged" and own is not None and own.object is not None and own.object.sha256 == manifest.sha256:
        return True
    return catalog.receipt_of_day(manifest) is not None
