"""How does one file become one object: written once, compared, and never over another?

The rule is create-only (`If-None-Match: *`) with the file's SHA-256, so that of two uploaders one writes and the other
compares. What stands already is compared, not written; what differs stays as it is.

The object is looked for before the put, and its SHA-256 asked for after it, until the store has shown (`habits`) that
it refuses a second one and that its answer to a put tells the SHA-256 of what it holds: then the put alone says both.
On a store that ignores the condition, or answers 501 to it, the two looks stay all there is. There two machines
that upload different bytes under one name at the same instant could overwrite each other; the comparison after the
put would tell the first of them. Batch names hold 32 random bits, so that it takes two copies of one session for that.

A file of `Bucket.multipart_from_bytes` or more goes in parts, and is downloaded to compare its SHA-256: a store gives
none of what it was sent in parts. By default that is what one put cannot take (5 GiB).
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import ConflictError, CorruptionError, TerminalError, TransientError
from tasks.records.manifest import ObjectReceipt, Receipt
from tasks.storage.store import sha256_of
from tasks.upload.bucket import Bucket
from tasks.upload.habits import habits_of
from tasks.upload.multipart import put_in_parts
from tasks.upload.object_store import NoConditionalPut, ObjectStore, Stored

# A larger file is looked for first whatever the store has shown: to send it in vain costs more than to ask.
_ASK_FIRST_BYTES = 8 << 20
_SECOND_PUT_BYTES = 1 << 20
# Fewer than these are not worth a request more.
_LEARN_AFTER_PUTS = 3


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A file as it was hashed (hex), and the key it goes to."""

    file: Path
    key: str
    bytes: int
    sha256: str


def outgoing(file: Path, key: str, sha256: str | None = None) -> Outgoing:
    """The file, hashed. Raises CorruptionError where it is missing, or is not of the SHA-256 given."""
    try:
        found, size = sha256_of(file), file.stat().st_size
    except FileNotFoundError as error:
        raise CorruptionError(f"{file}: is missing beside its record; restore it from a copy") from error
    if sha256 not in (None, found):
        raise CorruptionError(f"{file}: its bytes are not those of its record; restore it from a copy")
    return Outgoing(file, key, size, found)


def send_all(bucket: Bucket, wanted: Iterable[Outgoing], standing: Receipt | None) -> list[ObjectReceipt]:
    """Make each an object, in that order; what `standing` acknowledges already is not asked for again.

    Raises TransientError; ConflictError where another object stands under a key; other TerminalErrors where the store
    refuses.
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
    """Make one file an object. Raises as `send_all`."""
    habits = habits_of(objects.bucket)
    if not habits.refuses_second or wanted.bytes > _ASK_FIRST_BYTES:
        stored = _found(objects, wanted.key)
        if stored is not None:
            return _compared(objects, wanted, stored)
    put = _put(objects, wanted)
    if put is not None and put.sha256 is not None and habits.tells_sha256 and habits.refuses_second:
        receipt = _compared(objects, wanted, put)
    else:
        receipt = _looked_at(objects, wanted, put)
    if put is not None:
        _learn(objects, wanted)
    return receipt


def _looked_at(objects: ObjectStore, wanted: Outgoing, put: Stored | None) -> ObjectReceipt:
    """The receipt of what stands after a put, asked for by itself."""
    stored = objects.find(wanted.key)
    if stored is None:
        raise TransientError(f"{objects.bucket}: {wanted.key} was put and is not there; it is tried again")
    if put is not None:
        habits_of(objects.bucket).tells_sha256 = put.sha256 is not None and put.sha256 == stored.sha256
    return _compared(objects, wanted, stored)


def _put(objects: ObjectStore, wanted: Outgoing) -> Stored | None:
    """Write the object where none stands; gives the store's answer, None where whose it is is to be found out."""
    if wanted.bytes >= objects.bucket.multipart_from_bytes:
        put_in_parts(objects, wanted.key, wanted.file, objects.bucket.part_bytes)
        return None
    try:
        return objects.put(wanted.key, wanted.file, wanted.sha256, create_only=True)
    except NoConditionalPut:
        habits_of(objects.bucket).refuses_second = False
        if _found(objects, wanted.key) is not None:
            return None
        return objects.put(wanted.key, wanted.file, wanted.sha256, create_only=False)


def _learn(objects: ObjectStore, written: Outgoing) -> None:
    """Put what we have just written once more, in vain: after a few puts, once, and never more than a small file."""
    habits = habits_of(objects.bucket)
    habits.puts += 1
    if habits.refuses_second is None and habits.puts > _LEARN_AFTER_PUTS and written.bytes <= _SECOND_PUT_BYTES:
        # The upload is done: what a store has against being asked is no failure of it.
        with suppress(TransientError):
            try:
                second = objects.put(written.key, written.file, written.sha256, create_only=True)
                habits.refuses_second = second is None
            except TerminalError:
                habits.refuses_second = False


def _found(objects: ObjectStore, key: str) -> Stored | None:
    """What stands under the key. A refusal to tell counts as nothing: it has no body to say why, a put's has."""
    try:
        return objects.find(key)
    except TerminalError:
        return None


def _compared(objects: ObjectStore, wanted: Outgoing, stored: Stored) -> ObjectReceipt:
    """The receipt of an object that equals the file. Raises ConflictError where it does not."""
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
