"""Find out what a bucket can do, before anything depends on it."""

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from tasks.errors import TerminalError, TransientError
from tasks.records.manifest import Place
from tasks.storage.store import sha256_of
from tasks.upload.bucket import Bucket
from tasks.upload.object_store import NoConditionalPut, ObjectStore

# Names of probe objects start with this; `audit` does not report one that could not be removed.
PROBE = ".probe"


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a bucket that can be written to honors: create-only puts, and SHA-256 of what it holds.

    `left` is the key of the probe object if these credentials may not remove it.
    """

    bucket: str
    conditional_put: bool
    checksums: bool
    left: str | None = None

    def __str__(self) -> str:
        left = "" if self.left is None else f"; these credentials may not remove objects, {self.left} stays"
        return f"{self._rule()}{left}"

    def _rule(self) -> str:
        if self.conditional_put and self.checksums:
            return f"{self.bucket}: objects are created once by the store's own rule, checksums are compared"
        rules = [
            "" if self.conditional_put else "no conditional put: each key is looked up first and compared after",
            "" if self.checksums else "no checksums: each object is downloaded to compare",
        ]
        return f"{self.bucket}: usable by a weaker rule ({'; '.join(rule for rule in rules if rule)})"


_KNOWN: dict[Place, Abilities] = {}
_LOCKS: dict[Place, Lock] = {}


def abilities_of(objects: ObjectStore, known: dict[Place, Abilities] = _KNOWN) -> Abilities:
    """Return what this bucket can do; it is probed once per process, and by one thread.

    A failed probe is not remembered. If the store refuses it, the bucket counts as one that can do neither, which is
    always safe: the upload that follows reports what is wrong. Raises TransientError.
    """
    place = objects.bucket.place
    # dict.setdefault is atomic, so all threads get the same lock.
    with _LOCKS.setdefault(place, Lock()):
        if place not in known:
            try:
                # Always the same key: at most one object stays if the credentials may not remove any. If another
                # process probes at the same time, this one may see too little, never too much.
                # It is not read back: in some storage classes an object cannot be.
                known[place] = _probe(objects, f"{objects.bucket.keys.batches}{PROBE}", reads=False)
            except TerminalError:
                return Abilities(str(objects.bucket), conditional_put=False, checksums=False)
        return known[place]


def probe(bucket: Bucket) -> Abilities:
    """Write one small object under the prefix twice, read and remove it, and return what the bucket can do.

    Raises TransientError if it cannot be reached and TerminalError, with what to do, if it refuses.
    """
    return _probe(ObjectStore(bucket), f"{bucket.keys.batches}{PROBE}-{secrets.token_hex(8)}", reads=True)


def check_bucket(bucket: Bucket) -> None:
    """Raise TerminalError if settings, variables or files keep the bucket from being opened; sends nothing."""
    with suppress(TransientError):  # Whatever provides the credentials may be back by then.
        ObjectStore(bucket)


def check_writable(bucket: Bucket) -> None:
    """Write one small object under the prefix and remove it, in two requests. Raises as `probe`."""
    objects, key = ObjectStore(bucket), f"{bucket.keys.batches}{PROBE}"
    with _probe_file() as (file, sha256):
        try:
            objects.put(key, file, sha256, create_only=True)
        except NoConditionalPut:
            objects.put(key, file, sha256, create_only=False)
    _remove(objects, key)


def _probe(objects: ObjectStore, key: str, *, reads: bool) -> Abilities:
    with _probe_file() as (file, sha256):
        conditional_put = _refuses_second_put(objects, key, file, sha256)
    try:
        stored = objects.find(key)
        if reads:
            objects.read(key)
    finally:
        removed = _remove(objects, key)
    checksums = stored is not None and stored.sha256 == sha256
    return Abilities(str(objects.bucket), conditional_put, checksums, None if removed else key)


@contextmanager
def _probe_file() -> Iterator[tuple[Path, str]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "probe"
        # These bytes never change: an object that could not be removed is compared with them later.
        file.write_bytes(b"Stock Tracing looks what this bucket can do. Remove this object.\n")
        yield file, sha256_of(file)


def _remove(objects: ObjectStore, key: str) -> bool:
    """Return whether the object could be removed. An upload does not need that right, so a refusal is no error."""
    try:
        objects.delete(key)
    except TerminalError:
        return False
    return True


def _refuses_second_put(objects: ObjectStore, key: str, file: Path, sha256: str) -> bool:
    """Return whether the store refuses to create an object that exists, as one that honors the condition does."""
    try:
        return any(objects.put(key, file, sha256, create_only=True) is None for _ in range(2))
    except NoConditionalPut:
        objects.put(key, file, sha256, create_only=False)
        return False
