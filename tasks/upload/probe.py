"""What can this bucket do, before anything depends on it?"""

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import TerminalError, TransientError
from tasks.storage.store import sha256_of
from tasks.upload.bucket import Bucket
from tasks.upload.object_store import NoConditionalPut, ObjectStore

# What the name of a probe's object starts with; where it could not be removed, `audit` knows whose it is.
PROBE = ".probe"


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a store that can be written to honours: create-only puts, and SHA-256 given back.

    `left` is the key of the probe's object where these credentials may not remove it.
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
            return f"{self.bucket}: written once by the store's own rule, checksums compared"
        rules = [
            "" if self.conditional_put else "no conditional put: looked for first, compared after",
            "" if self.checksums else "no checksums: each object is downloaded to compare",
        ]
        return f"{self.bucket}: usable by a weaker rule ({'; '.join(rule for rule in rules if rule)})"


def check_bucket(bucket: Bucket) -> None:
    """Raises TerminalError where settings or surroundings keep the bucket from being opened; sends nothing."""
    with suppress(TransientError):  # Who gives the credentials may be back by then.
        ObjectStore(bucket)


def probe(bucket: Bucket) -> Abilities:
    """Write, overwrite-in-vain, read and remove one small object under the prefix, and say what the store honours.

    Raises TransientError where it cannot be reached and TerminalError, with what to do, where it refuses.
    """
    objects = ObjectStore(bucket)
    key = f"{bucket.keys.batches}{PROBE}-{secrets.token_hex(8)}"
    with _probe_file() as (file, sha256):
        honoured = _put_twice(objects, key, file, sha256)
        try:
            stored = objects.find(key)
            objects.read(key)
        finally:
            removed = _remove(objects, key)
    matches = stored is not None and stored.sha256 == sha256
    return Abilities(str(bucket), honoured, matches, None if removed else key)


def check_writable(bucket: Bucket) -> None:
    """Write one small object under the prefix and remove it, in two requests. Raises as `probe`.

    The key is always the same, so that no more than one object stays where the credentials may not remove any.
    """
    objects, key = ObjectStore(bucket), f"{bucket.keys.batches}{PROBE}"
    with _probe_file() as (file, sha256):
        try:
            objects.put(key, file, sha256, create_only=True)
        except NoConditionalPut:
            objects.put(key, file, sha256, create_only=False)
    _remove(objects, key)


@contextmanager
def _probe_file() -> Iterator[tuple[Path, str]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "probe"
        file.write_bytes(b"Stock Tracing looks what this bucket can do. Remove this object.\n")
        yield file, sha256_of(file)


def _remove(objects: ObjectStore, key: str) -> bool:
    """Whether the object could be removed. An upload needs no right to, so a refusal is no fault."""
    try:
        objects.delete(key)
    except TerminalError:
        return False
    return True


def _put_twice(objects: ObjectStore, key: str, file: Path, sha256: str) -> bool:
    """Whether the store refuses the second put, as one does that honours the condition."""
    try:
        objects.put(key, file, sha256, create_only=True)
        return objects.put(key, file, sha256, create_only=True) is None
    except NoConditionalPut:
        objects.put(key, file, sha256, create_only=False)
        return False
