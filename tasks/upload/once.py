"""How does an archived batch become objects in a bucket, each written once and never over another?

Keys are `<prefix>/<path below archive/>`. The file goes first and its manifest last: where a manifest is listed, the
batch is whole. An object that stands already is compared, not written; one that differs stays as it is.

The rule is create-only (`If-None-Match: *`), so that of two uploaders one writes and the other compares. Each object
is looked for before as well: it saves sending what is there, and on a store that ignores the condition, or answers
501 to it, it is all there is. There two machines that upload different bytes under one name at the same instant
could overwrite each other; the comparison after the put would tell the first of them. Batch names hold 32 random
bits, so that it takes two copies of one session to come to that.

A file of `Bucket.multipart_from_bytes` or more goes in parts, and is downloaded to compare its SHA-256: a store gives
none of what it was sent in parts. By default that is what one put cannot take (5 GiB).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.batch import BatchName
from tasks.errors import ConflictError, CorruptionError, TerminalError, TransientError
from tasks.manifest import Manifest, ObjectReceipt, Receipt, encode, read
from tasks.store import Store, write_whole
from tasks.upload.bucket import Bucket
from tasks.upload.multipart import put_in_parts
from tasks.upload.object_store import NoConditionalPut, ObjectStore, Stored


@dataclass(frozen=True, slots=True)
class _Upload:
    """A file as it was hashed, and the key it goes to."""

    file: Path
    key: str
    bytes: int
    sha256: str


def upload(store: Store, name: BatchName, bucket: Bucket, now_ns: Callable[[], int]) -> Receipt:
    """Put an archived batch's file and manifest into the bucket, and write the receipt beside them.

    Run again, it gives the receipt that stands and asks the store nothing; a receipt of another bucket or of other
    bytes is replaced, after the store was asked. Raises TransientError; CorruptionError where the archived file is
    not its manifest's, before anything is sent; ConflictError where another object stands under a key; other
    TerminalErrors where the store refuses.
    """
    with store.locked(name):
        manifest_path = store.manifest_of(name)
        if manifest_path is None:
            raise TerminalError(f"{name}: is not archived in {store.archive}; run `tape archive`")
        uploads = _uploads(store, manifest_path, bucket)
        receipt_path = manifest_path.with_name(name.receipt)
        standing = _standing(receipt_path, uploads, bucket)
        if standing is not None:
            return standing
        objects = ObjectStore(bucket)
        receipts = [_put_once(objects, each) for each in uploads]
        receipt = Receipt(
            batch=str(name),
            bucket=bucket.name,
            endpoint=bucket.endpoint_url,
            uploaded_ns=now_ns(),
            object=receipts[0] if len(receipts) == 2 else None,
            manifest=receipts[-1],
        )
        write_whole(receipt_path, encode(receipt))
        return receipt


def _uploads(store: Store, manifest_path: Path, bucket: Bucket) -> list[_Upload]:
    """What is to be sent, in that order, each checked against the manifest."""
    manifest = read(manifest_path, Manifest)
    paths = [manifest_path] if manifest.file is None else [manifest_path.with_name(manifest.file), manifest_path]
    uploads = [_hashed(path, f"{bucket.prefix}/{path.relative_to(store.archive).as_posix()}") for path in paths]
    if manifest.file is not None and (uploads[0].bytes, uploads[0].sha256) != (manifest.bytes, manifest.sha256):
        raise CorruptionError(f"{paths[0]}: its bytes are not those of {manifest_path}; restore it from a copy")
    return uploads


def sha256_of(path: Path) -> str:
    """The SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hashed(path: Path, key: str) -> _Upload:
    try:
        sha256, size = sha256_of(path), path.stat().st_size
    except FileNotFoundError as error:
        raise CorruptionError(f"{path}: is missing beside its manifest; restore it from a copy") from error
    return _Upload(path, key, size, sha256)


def is_for(receipt: Receipt, bucket: Bucket) -> bool:
    """Whether that receipt is one of this bucket: of its name, at its endpoint, under its prefix."""
    here = receipt.manifest.key.startswith(f"{bucket.prefix}/feed=")
    return here and (receipt.bucket, receipt.endpoint) == (bucket.name, bucket.endpoint_url)


def uploaded(store: Store, name: BatchName, bucket: Bucket) -> bool:
    """Whether the batch has a receipt of this bucket. Reads the receipt alone, and asks no store."""
    manifest = store.manifest_of(name)
    try:
        return manifest is not None and is_for(read(manifest.with_name(name.receipt), Receipt), bucket)
    except (FileNotFoundError, CorruptionError):
        return False


def _standing(path: Path, uploads: list[_Upload], bucket: Bucket) -> Receipt | None:
    """The receipt that stands, where it is one for these bytes at this place."""
    try:
        receipt = read(path, Receipt)
    except (FileNotFoundError, CorruptionError):
        return None
    objects = [each for each in (receipt.object, receipt.manifest) if each is not None]
    acknowledged = [(each.key, each.bytes, each.sha256) for each in objects]
    expected = [(each.key, each.bytes, each.sha256) for each in uploads]
    return receipt if is_for(receipt, bucket) and acknowledged == expected else None


def _put_once(objects: ObjectStore, upload: _Upload) -> ObjectReceipt:
    stored = _found(objects, upload.key)
    if stored is None:
        _put(objects, upload)
        stored = objects.find(upload.key)
    if stored is None:
        raise TransientError(f"{objects.bucket}: {upload.key} was put and is not there; it is tried again")
    return _compared(objects, upload, stored)


def _put(objects: ObjectStore, upload: _Upload) -> None:
    """Write the object where none stands; whether ours is there is for the comparison to say."""
    if upload.bytes >= objects.bucket.multipart_from_bytes:
        put_in_parts(objects, upload.key, upload.file, objects.bucket.part_bytes)
        return
    try:
        objects.put(upload.key, upload.file, upload.sha256, create_only=True)
    except NoConditionalPut:
        objects.put(upload.key, upload.file, upload.sha256, create_only=False)


def _found(objects: ObjectStore, key: str) -> Stored | None:
    """What stands under the key. A refusal to tell counts as nothing: it has no body to say why, a put's has."""
    try:
        return objects.find(key)
    except TerminalError:
        return None


def _compared(objects: ObjectStore, upload: _Upload, stored: Stored) -> ObjectReceipt:
    """The receipt of an object that equals the file. Raises ConflictError where it does not."""
    checked, sha256 = "sha256 given by the store", stored.sha256
    if sha256 is None and stored.bytes == upload.bytes:
        checked, sha256 = "size, and sha256 of a download", objects.read(upload.key)
    if (stored.bytes, sha256) != (upload.bytes, upload.sha256):
        raise ConflictError(
            f"{objects.bucket}: {upload.key} ({stored.bytes:,} bytes) is taken by another object than {upload.file} "
            f"({upload.bytes:,} bytes); nothing was overwritten: compare the two and move one away"
        )
    return ObjectReceipt(
        key=upload.key, bytes=upload.bytes, sha256=upload.sha256,
        etag=stored.etag, version=stored.version, checked=checked,
    )  # fmt: skip
