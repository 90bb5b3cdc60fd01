"""Proves that the rows of a file to be removed exist elsewhere now.

Locally, the day's file is compared with its record by SHA-256 and with the batches by rows, once per day. In the
bucket, the store is asked once per object. A receipt alone proves nothing.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tasks.archive.same_rows import Source, check_same_rows
from tasks.archive.side_records import receipt_of
from tasks.errors import CorruptionError, RecorderError, TransientError
from tasks.records.manifest import Day, Manifest, ObjectReceipt, Receipt
from tasks.retain.rule import Remote
from tasks.storage.store import Store, sha256_of, unfinished


class NotYet(RecorderError):
    """No copy is proven, but nothing is wrong: not merged yet, not uploaded yet, or the bucket is unreachable."""


@dataclass(slots=True)
class Bucket:
    """The bucket during one run; after it was unreachable once, it is not asked again."""

    remote: Remote
    _out_of_reach: str | None = None
    _stood: dict[str, bool] = field(default_factory=dict)

    def proven(self, receipt: Receipt | None, what: str) -> str:
        """Return where the bucket has the acknowledged objects. Raises NotYet, and CorruptionError if they differ."""
        acknowledged = self.check_acknowledged(receipt, what)
        for each in acknowledged:
            if not self._stands(each):
                raise CorruptionError(
                    f"{self.remote.name}: {each.key} is missing or another than its receipt says; "
                    "run `tape verify --remote`"
                )
        return f"{self.remote.name}: {acknowledged[0].key}"

    def check_acknowledged(self, receipt: Receipt | None, what: str) -> tuple[ObjectReceipt, ObjectReceipt]:
        """Return the receipts of file and record from this bucket. Raises NotYet if it never acknowledged them."""
        if receipt is None or receipt.object is None or not receipt.is_of(self.remote.place):
            raise NotYet(f"{what} has no receipt of {self.remote.name}; `tape archive` uploads it")
        return receipt.object, receipt.manifest

    def remove(self, key: str) -> None:
        """Remove an object from the bucket. Raises TransientError and TerminalError."""
        self._stood.pop(key, None)
        self.remote.remove([key])

    def _stands(self, receipt: ObjectReceipt) -> bool:
        if self._out_of_reach is not None:
            raise NotYet(self._out_of_reach)
        if receipt.key not in self._stood:
            try:
                self._stood[receipt.key] = self.remote.stands(receipt)
            except TransientError as error:
                self._out_of_reach = str(error)
                raise NotYet(self._out_of_reach) from error
        return self._stood[receipt.key]


@dataclass(slots=True)
class ClosedDay:
    """One closed day: its record, and what this run has proven about its file."""

    store: Store
    record: Path
    day: Day
    bucket: Bucket | None
    _sha256: str | None = None
    _differs: str | None = None

    @property
    def file(self) -> Path | None:
        """The day's file; None if the day has no rows."""
        return None if self.day.file is None else self.record.with_name(self.day.file)

    def here(self) -> str:
        """Return where the local file is, proven. Raises NotYet if it is not here, CorruptionError if damaged."""
        if self.file is None or not self.file.exists():
            raise NotYet(f"{self.file or self.record}: the day's file is not here")
        self._sha256 = self._sha256 or sha256_of(self.file)
        if self._sha256 != self.day.sha256:
            raise CorruptionError(f"{self.file}: its SHA-256 is not that of its record; restore it from a copy")
        return self.file.relative_to(self.store.root).as_posix()

    def check_rows(self) -> None:
        """Raise CorruptionError if the day's file has other rows than the local batch files; compares all at once.

        For a day restored from a bucket, its record alone would not prove this: anyone may have written it.
        """
        if self._differs is None:
            folder = self.store.archive_folder(self.day.feed, self.day.date)
            files = {each.batch: (folder / str(each.file), each.sha256) for each in self.day.batches if each.file}
            # A damaged batch file is kept, but does not prevent the removal of the others.
            sources = [
                Source(name, file)
                for name, (file, sha256) in files.items()
                if file.exists() and sha256_of(file) == sha256
            ]
            self._differs = ""
            try:
                assert self.file is not None  # noqa: S101 - it has rows
                check_same_rows(self.file, sources, unfinished(self.record.with_suffix(".rows")))
            except CorruptionError as error:
                self._differs = str(error)
        if self._differs:
            raise CorruptionError(self._differs)

    def there(self) -> str:
        """Return where the bucket has the day's file, proven. Raises the same errors as `Bucket.proven`."""
        assert self.bucket is not None  # noqa: S101 - asked only where one is set
        receipt = receipt_of(self.record)
        if receipt is not None and (receipt.object is None or receipt.object.sha256 != self.day.sha256):
            raise NotYet(f"{self.record}: the bucket has an earlier merge of the day")
        return self.bucket.proven(receipt, f"{self.record}: the day")

    def check_holds(self, manifest: Manifest) -> None:
        """Raise NotYet if the day's file does not contain exactly this batch."""
        if manifest not in self.day.batches:
            raise NotYet(f"{self.record}: the day's file was made without {manifest.batch}; close the day again")


def batch_there(path: Path, manifest: Manifest, bucket: Bucket, closed: ClosedDay | None) -> str:
    """Return where the bucket has a batch's rows, proven: its own object or its day's. Raises as `Bucket.proven`."""
    receipt = receipt_of(path)
    if receipt is not None and receipt.object is not None and receipt.object.sha256 != manifest.sha256:
        raise CorruptionError(f"{path}: its receipt acknowledges another file; run `tape verify`")
    try:
        return bucket.proven(receipt, f"{path}: the batch")
    except (NotYet, CorruptionError):
        if closed is None or manifest not in closed.day.batches or closed.file is None or not closed.file.exists():
            raise
        closed.here()
        closed.check_rows()
        return closed.there()
