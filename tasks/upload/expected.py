"""What must a bucket hold, by the records of the data folder: its batches, its sessions and its closed days?"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tasks.archive.day_files import day_receipt, day_record, held_by, removed
from tasks.errors import CorruptionError
from tasks.records.manifest import Day, Manifest, Receipt, quarantined_files, read
from tasks.records.names import BatchName
from tasks.storage.store import Store, sha256_of
from tasks.upload.bucket import Bucket
from tasks.upload.days import day_keys
from tasks.upload.once import quarantine_key, receipt_of
from tasks.upload.sessions import RECEIPT, ended_sessions, session_key


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
        self._store, self._bucket = store, bucket

    def days(self) -> Iterator[Expected]:
        """Every closed day that has rows."""
        for record in sorted(self._store.days.glob("feed=*/date=*/_*.day.json")):
            folder = f"{self._bucket.by_day}/{record.parent.relative_to(self._store.days).as_posix()}"
            receipt = receipt_of(day_receipt(record), self._bucket)
            try:
                day = read(record, Day)
            except CorruptionError as error:
                yield Expected(name=f"{folder}/{record.name}", error=str(error), receipt=receipt)
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
            key = session_key(self._bucket, record.parent.name)
            receipt = receipt_of(record.with_name(RECEIPT), self._bucket)
            yield Expected(name=key, sha256s={key: sha256_of(record)}, receipt=receipt)

    def batches(self) -> Iterator[Expected]:
        """Every archived batch."""
        for path in self._store.manifests():
            name = BatchName.parse(path.name)
            folder = f"{self._bucket.prefix}/{path.parent.relative_to(self._store.archive).as_posix()}"
            try:
                yield self._batch(path, name, folder)
            except CorruptionError as error:
                # What it is made of cannot be read; what lies there under its name is still not foreign.
                keys = [f"{folder}/{each}" for each in (name.manifest, *map(name.archived_as, _FORMS))]
                keys += [quarantine_key(self._bucket, each) for each in name.rejects]
                yield Expected(name=f"{folder}/{name}", sha256s=dict.fromkeys(keys, ""), error=str(error))

    def _batch(self, path: Path, name: BatchName, folder: str) -> Expected:
        manifest = read(path, Manifest)
        sha256s = {f"{folder}/{name.manifest}": sha256_of(path)}
        merged = None
        if manifest.file is not None:
            sha256s[f"{folder}/{manifest.file}"] = manifest.sha256
            said = removed(path)
            if said is not None and said.why == "merged" and self._is_in_uploaded_day(manifest):
                merged = f"{folder}/{manifest.file}"
        for file, sha256 in quarantined_files(manifest).items():
            sha256s[quarantine_key(self._bucket, file)] = sha256
        return Expected(
            name=f"{folder}/{name}", sha256s=sha256s, receipt=receipt_of(path.with_name(name.receipt), self._bucket),
            merged=merged,
        )  # fmt: skip

    def _is_in_uploaded_day(self, manifest: Manifest) -> bool:
        record = day_record(self._store, manifest.seal.feed, manifest.seal.date)
        receipt = receipt_of(day_receipt(record), self._bucket)
        if receipt is None or not record.exists():
            return False
        file, batches = held_by(record)
        return file == f"{receipt.batch}.parquet" and batches.get(manifest.batch) == manifest


_FORMS = ("parquet", "csv.zst", "csv.gz")
