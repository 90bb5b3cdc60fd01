"""Upload one file as one object: written once, compared, and never over another object.

Every put is create-only (`If-None-Match: *`) and carries the file's SHA-256, so that of two uploaders one writes and
the other compares. An object that exists is compared, not written; one that differs is a conflict and stays.

What the bucket can do is probed once per process (`probe.abilities_of`):

- If it honors the condition and returns checksums, the put alone suffices: it is refused if the key is taken, and its
  answer holds the SHA-256 of what was stored.
- If not, the key is looked up before the put, and the object compared after it. Two machines that upload different
  bytes under one name at the same instant could then overwrite each other; the comparison tells the first of them.
  Batch names hold 32 random bits, so that takes two copies of one session.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import ConflictError, CorruptionError, TerminalError, TransientError
from tasks.records.manifest import ObjectReceipt, Receipt
from tasks.storage.store import sha256_of
from tasks.upload.bucket import Bucket
from tasks.upload.object_store import NoConditionalPut, ObjectStore, Stored
from tasks.upload.probe import abilities_of

# S3 allows no more in one put.
_MAX_PUT_BYTES = 5 << 30
# A larger file is looked up first in any case: to send it for nothing costs more than to ask.
_LOOK_UP_FROM_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A file to upload, its size and SHA-256 (hex), and the key that it goes to."""

    file: Path
    key: str
    bytes: int
    sha256: str


def outgoing(file: Path, key: str, sha256: str | None = None) -> Outgoing:
    """Hash a file for its upload.

    Raises CorruptionError if it is missing or does not have the SHA-256 given, TerminalError if it is too large.
    """
    try:
        size = file.stat().st_size
        if size > _MAX_PUT_BYTES:
            raise TerminalError(
                f"{file}: has {size:,} bytes, and a store takes no more than {_MAX_PUT_BYTES:,} in one object; "
                "nothing was sent: set a smaller TAPE_BATCH_BYTES or record fewer symbols"
            )
        actual = sha256_of(file)
    except FileNotFoundError as error:
        raise CorruptionError(f"{file}: is missing beside its record; restore it from a copy") from error
    if sha256 not in (None, actual):
        raise CorruptionError(f"{file}: its bytes are not those of its record; restore it from a copy")
    return Outgoing(file, key, size, actual)


def send_all(bucket: Bucket, wanted: Iterable[Outgoing], standing: Receipt | None) -> list[ObjectReceipt]:
    """Upload these files in this order; what the receipt `standing` acknowledges is not sent or asked for again.

    Raises TransientError; ConflictError if another object has a key; other TerminalErrors if the store refuses.
    """
    known = {(each.key, each.bytes, each.sha256): each for each in (standing.objects if standing else ())}
    objects: ObjectStore | None = None
    receipts = []
    for each in wanted:
        receipt = known.get((each.key, each.bytes, each.sha256))
        if receipt is None:
            objects = objects or ObjectStore(bucket)
            receipt = send(objects, each)
        receipts.append(receipt)
    return receipts


def send(objects: ObjectStore, wanted: Outgoing) -> ObjectReceipt:
    """Upload one file and compare the object with it. Raises as `send_all`."""
    abilities = abilities_of(objects)
    if not abilities.conditional_put or wanted.bytes > _LOOK_UP_FROM_BYTES:
        existing = _look_up(objects, wanted.key)
        if existing is not None:
            return _compare(objects, wanted, existing)
    stored = _put(objects, wanted)
    is_proof = abilities.conditional_put and abilities.checksums and stored is not None and stored.sha256 is not None
    if stored is None or not is_proof:
        stored = objects.find(wanted.key)
    if stored is None:
        raise TransientError(f"{objects.bucket}: {wanted.key} was put and is not there; it is tried again")
    return _compare(objects, wanted, stored)


def _put(objects: ObjectStore, wanted: Outgoing) -> Stored | None:
    """Create the object; returns None if the caller must look up what is there now."""
    try:
        return objects.put(wanted.key, wanted.file, wanted.sha256, create_only=True)
    except NoConditionalPut:
        if _look_up(objects, wanted.key) is None:
            objects.put(wanted.key, wanted.file, wanted.sha256, create_only=False)
        return None


def _look_up(objects: ObjectStore, key: str) -> Stored | None:
    """Find an object. A failed HEAD counts as absent: it has no body to say why; the put that follows reports it."""
    try:
        return objects.find(key)
    except TerminalError:
        return None


def _compare(objects: ObjectStore, wanted: Outgoing, stored: Stored) -> ObjectReceipt:
    """Return the receipt of an object that equals the file; raise ConflictError if it differs."""
    checked, sha256 = "sha256 given by the store", stored.sha256
    if sha256 is None and stored.bytes == wanted.bytes:
        checked, sha256 = "size, and sha256 of a download", objects.read(wanted.key)
    if (stored.bytes, sha256) != (wanted.bytes, wanted.sha256):
        raise ConflictError(
            f"{objects.bucket}: {wanted.key} ({stored.bytes:,} bytes) is taken by another object than {wanted.file} "
            f"({wanted.bytes:,} bytes); nothing was overwritten: compare the two and move one away"
        )
    return ObjectReceipt(
        key=wanted.key, bytes=wanted.bytes, sha256=wanted.sha256,
        etag=stored.etag, version=stored.version, checked=checked,
    )  # fmt: skip
