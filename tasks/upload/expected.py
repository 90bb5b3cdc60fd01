"""What must a bucket hold, by the records of the data folder: its batches, its sessions and its closed days?"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tasks.archive.catalog import Catalog
from tasks.archive.side_records import acknowledged
from tasks.errors import CorruptionError
from tasks.records.manifest import Day, Manifest, Receipt, quarantined_files, read
from tasks.records.names import DAY_FOLDERS, BatchName, day_record, feed_and_date
from tasks.storage.store import Store, sha256_of
from tasks.upload.bucket import Bucket
from tasks.upload.days import day_keys
from tasks.upload.sessions import ended_sessions


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A batch, a session's record or a day: the SHA-256 (hex) of each of its objects by key, and its receipt.

    `name` is what it is called where it was not uploaded; `error` says why its records cannot be read, where they
    cannot. `merged`: the key of its file, whose rows a day that was uploaded holds, so that it may be gone. `day` is
    a day's record.
    """

    name: str
    sha256s: dict[str, str] = field(default_factory=dict)
    receipt: Receipt | None = None
    error: str | None = None
    merged: str | None = None
    day: Path | None = None


class Records:
    """The records of a data folder, beside a bucket. Asks no store."""

    def __init__(self, store: Store, bucket: Bucket) -> None:
        self._store, self._bucket, self._keys = store, bucket, bucket.keys

    def days(self) -> Iterator[Expected]:
        """Every closed day that has rows."""
        for record in sorted(self._store.days.glob(f"{DAY_FOLDERS}/{day_record('*')}")):
            receipt = acknowledged(record, self._bucket.place)
            try:
                day = read(record, Day)
            except CorruptionError as error:
                name = self._keys.of_day(*feed_and_date(record.parent), record.name)
                yield Expected(name=name, error=str(error), receipt=receipt)
                continue
            if day.file is not None:
                file_key, record_key = day_keys(self._bucket, day)
                yield Expected(
                    name=file_key, sha256s={file_key: day.sha256, record_key: sha256_of(record)}, receipt=receipt,
                    day=record,
                )  # fmt: skip

    def sessions(self) -> Iterator[Expected]:
        """Every session that has ended."""
        for record in ended_sessions(self._store):
            key = self._keys.of_session(record.parent.name)
            receipt = acknowledged(record, self._bucket.place)
            yield Expected(name=key, sha256s={key: sha256_of(record)}, receipt=receipt)

    def batches(self) -> Iterator[Expected]:
        """Every archived batch."""
        for path in self._store.manifests():
            name, day = BatchName.parse(path.name), feed_and_date(path.parent)
            try:
                yield self._batch(path, name, day)
            except CorruptionError as error:
                # What it is made of cannot be read; what lies there under its name is still not foreign.
                keys = [self._keys.of_batch(*day, each) for each in (name.manifest, *name.archives)]
                keys += map(self._keys.of_quarantine, name.rejects)
                called = self._keys.of_batch(*day, str(name))
                yield Expected(name=called, sha256s=dict.fromkeys(keys, ""), error=str(error))

    def _batch(self, path: Path, name: BatchName, day: tuple[str, str]) -> Expected:
        manifest, place = read(path, Manifest), self._bucket.place
        sha256s = {self._keys.of_batch(*day, name.manifest): sha256_of(path)}
        merged = None
        if manifest.file is not None:
            key = self._keys.of_batch(*day, manifest.file)
            sha256s[key] = manifest.sha256
            merged = key if Catalog(self._store).is_merged_in(place, path, manifest) else None
        sha256s |= {self._keys.of_quarantine(file): sha256 for file, sha256 in quarantined_files(manifest).items()}
        called = self._keys.of_batch(*day, str(name))
        return Expected(name=called, sha256s=sha256s, receipt=acknowledged(path, place), merged=merged)
