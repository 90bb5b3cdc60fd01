"""Is every archived object in the bucket what its receipt and its manifest say, and does nothing else lie there?

The store's own SHA-256 is compared where it gives one of the whole object, as it does of what went in one put; what
went in parts, or to a store without checksums, is downloaded and hashed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.batch import BatchName
from tasks.errors import CorruptionError, RecorderError, TerminalError
from tasks.manifest import Manifest, ObjectReceipt, Receipt, read
from tasks.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.multipart import ABANDONED_AFTER_NS
from tasks.upload.object_store import ObjectStore


@dataclass(frozen=True, slots=True)
class Wrong:
    """One thing that is not as it should be: not uploaded, missing, different, foreign or abandoned."""

    kind: str
    key: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteVerdict:
    """What was found. `objects` are ours by their receipts; `downloaded` of them had to be read to be compared.

    `notes` say what could not be looked for.
    """

    bucket: str
    batches: int
    objects: int
    bytes: int
    downloaded: int
    wrong: tuple[Wrong, ...]
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong


@dataclass(slots=True)
class _Count:
    batches: int = 0
    objects: int = 0
    bytes: int = 0
    downloaded: int = 0


def audit(store: Store, bucket: Bucket, now_ns: int) -> RemoteVerdict:
    """Compare every archived batch of the data folder with the bucket, and whatever else lies under the prefix.

    Objects are listed once and each is asked for by itself. Raises TransientError and TerminalError where the
    store cannot be asked; what it answers of a single object is part of the verdict.
    """
    objects, count = ObjectStore(bucket), _Count()
    listed = objects.keys(f"{bucket.prefix}/")
    ours, wrong = set[str](), list[Wrong]()
    for manifest_path in store.manifests():
        count.batches += 1
        keys, found = _batch(store, manifest_path, objects, listed, count)
        ours |= keys
        wrong += found
    wrong += [
        Wrong("foreign", key, f"{size:,} bytes under our prefix, of no batch of {store.archive}; look whose it is")
        for key, size in sorted(listed.items())
        if key not in ours
    ]
    abandoned, notes = _abandoned(objects, now_ns)
    wrong += abandoned
    return RemoteVerdict(
        bucket=str(bucket), batches=count.batches, objects=count.objects, bytes=count.bytes,
        downloaded=count.downloaded, wrong=tuple(wrong), notes=notes,
    )  # fmt: skip


def _abandoned(objects: ObjectStore, now_ns: int) -> tuple[list[Wrong], tuple[str, ...]]:
    """The multiparts that killed uploads left, or a note where the store cannot list them, as some do not."""
    try:
        unfinished = objects.unfinished_parts(f"{objects.bucket.prefix}/")
    except TerminalError as error:
        return [], (f"parts that killed uploads may have left were not looked for: {error}",)
    said = "parts of an upload that was killed a day ago or before; run `tape archive`"
    return [
        Wrong("abandoned", each.key, said) for each in unfinished if now_ns - each.begun_ns >= ABANDONED_AFTER_NS
    ], ()


def _batch(
    store: Store, manifest_path: Path, objects: ObjectStore, listed: dict[str, int], count: _Count
) -> tuple[set[str], list[Wrong]]:
    """The keys of a batch, and what is wrong with it."""
    folder = f"{objects.bucket.prefix}/{manifest_path.parent.relative_to(store.archive).as_posix()}"
    name = BatchName.parse(manifest_path.name)
    keys = {f"{folder}/{name.manifest}", f"{folder}/{name.archived}"}
    try:
        manifest = read(manifest_path, Manifest)
        keys = {f"{folder}/{each}" for each in (name.manifest, manifest.file) if each is not None}
        receipt = read(manifest_path.with_name(name.receipt), Receipt)
    except FileNotFoundError:
        receipt = None
    except CorruptionError as error:
        return keys, [Wrong("different", f"{folder}/{name}", str(error))]
    if receipt is None or not receipt.is_of(objects.bucket.place):
        return keys, [Wrong("not uploaded", f"{folder}/{name}", "has no receipt of this bucket; run `tape archive`")]
    acknowledged = [each for each in (receipt.object, receipt.manifest) if each is not None]
    wrong = [*_against_manifest(receipt, manifest, keys)]
    for each in acknowledged:
        wrong += _object(each, objects, listed, count)
    return keys | {each.key for each in acknowledged}, wrong


def _against_manifest(receipt: Receipt, manifest: Manifest, keys: set[str]) -> Iterator[Wrong]:
    acknowledged = {each.key for each in (receipt.object, receipt.manifest) if each is not None}
    if acknowledged != keys:
        yield Wrong("different", receipt.manifest.key, f"the receipt names {sorted(acknowledged)}, not {sorted(keys)}")
    if receipt.object is not None and receipt.object.sha256 != manifest.sha256:
        yield Wrong("different", receipt.object.key, "the receipt's SHA-256 is not the manifest's; run `tape verify`")


def _object(receipt: ObjectReceipt, objects: ObjectStore, listed: dict[str, int], count: _Count) -> Iterator[Wrong]:
    """What is wrong with one object, by the store's word or by its bytes."""
    count.objects += 1
    count.bytes += receipt.bytes
    try:
        stored = objects.find(receipt.key)
        if stored is None:
            yield Wrong("missing", receipt.key, "is not in the bucket; remove its receipt and run `tape archive`")
            return
        sha256 = stored.sha256
        if sha256 is None and stored.bytes == receipt.bytes:
            count.downloaded += 1
            sha256 = objects.read(receipt.key)
    except RecorderError as error:
        yield Wrong("different", receipt.key, str(error))
        return
    if (stored.bytes, sha256) != (receipt.bytes, receipt.sha256):
        said = f"{stored.bytes:,} bytes, SHA-256 {sha256}"
        yield Wrong("different", receipt.key, f"holds {said}; its receipt says {receipt.bytes:,}, {receipt.sha256}")
    if receipt.key not in listed:
        yield Wrong("missing", receipt.key, "is there but not listed: readers that list do not see it; look again")
