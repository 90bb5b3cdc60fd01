"""What can this bucket do, before anything depends on it?"""

import hashlib
import secrets
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import TransientError
from tasks.upload.bucket import Bucket
from tasks.upload.object_store import NoConditionalPut, ObjectStore


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a store that can be written to honours: create-only puts, and SHA-256 given back."""

    bucket: str
    conditional_put: bool
    checksums: bool

    def __str__(self) -> str:
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
    key = f"{bucket.prefix}/.probe-{secrets.token_hex(8)}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "probe"
        file.write_bytes(b"Stock Tracing looks what this bucket can do. Remove this object.\n")
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        honoured = _put_twice(objects, key, file, sha256)
        try:
            stored = objects.find(key)
            objects.read(key)
        finally:
            objects.delete(key)
    return Abilities(str(bucket), honoured, stored is not None and stored.sha256 == sha256)


def _put_twice(objects: ObjectStore, key: str, file: Path, sha256: str) -> bool:
    """Whether the store refuses the second put, as one does that honours the condition."""
    try:
        objects.put(key, file, sha256, create_only=True)
        return objects.put(key, file, sha256, create_only=True) is None
    except NoConditionalPut:
        objects.put(key, file, sha256, create_only=False)
        return False
