"""How does one object become a file here: whole and of its SHA-256 or not at all, and never over something else?"""

import io
from pathlib import Path

from tasks.errors import ConflictError, CorruptionError
from tasks.records.manifest import MOST_BYTES
from tasks.storage.store import begun, publish, sha256_of, unfinished, write_whole
from tasks.upload.object_store import ObjectStore


def content_of(objects: ObjectStore, key: str) -> bytes:
    """The bytes of a record. Raises TransientError, TerminalError, and CorruptionError where they are too many."""
    body = io.BytesIO()
    objects.read(key, body, MOST_BYTES)
    return body.getvalue()


def bring(objects: ObjectStore, key: str, path: Path, sha256: str, size: int | None = None) -> int:
    """Have that object, of `size` bytes where that is known, as a file; gives the bytes that came, 0 where it is here.

    Raises CorruptionError where the object has another SHA-256 (hex), ConflictError where the file has, and what the
    store raises.
    """
    if path.exists():
        if sha256_of(path) != sha256:
            raise _conflict(objects, key, path)
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    try:
        with begun(path).open("wb") as file:
            actual = objects.read(key, file, size)
        if actual != sha256:
            raise CorruptionError(
                f"{objects.bucket}: {key} has SHA-256 {actual}, its record says {sha256}; nothing was kept"
            )
        publish(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path.stat().st_size


def refuse_other(objects: ObjectStore, key: str, path: Path, content: bytes) -> None:
    """Raise ConflictError where a file stands there that is not what came from that key."""
    if path.exists() and path.read_bytes() != content:
        raise _conflict(objects, key, path)


def put_here(objects: ObjectStore, key: str, path: Path, content: bytes) -> int:
    """Have what came from that key as a file; gives the bytes that are new. Raises ConflictError."""
    refuse_other(objects, key, path, content)
    if path.exists():
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    return len(content)


def _conflict(objects: ObjectStore, key: str, path: Path) -> ConflictError:
    return ConflictError(
        f"{path}: differs from {key} in {objects.bucket}; nothing was overwritten: compare the two and move one away"
    )
