"""Read records and files from a bucket: whole and of their SHA-256 or not at all, and never over something else."""

import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tasks.errors import ConflictError, CorruptionError
from tasks.records.manifest import MOST_BYTES, Day, Manifest, decode
from tasks.records.names import day_record
from tasks.storage.store import begun, publish, sha256_of, unfinished, write_whole
from tasks.upload.bucket import Bucket
from tasks.upload.object_store import ObjectStore


@dataclass(frozen=True, slots=True)
class RemoteDay:
    """The record of a closed day in the bucket: its key, bytes and content, and the key of the day's file."""

    key: str
    content: bytes
    day: Day
    file_key: str

    def holds(self, manifest: Manifest) -> bool:
        """Return whether the rows of that very batch are in this day."""
        return manifest in self.day.batches


def read_record(objects: ObjectStore, key: str) -> bytes:
    """Return the bytes of a record. Raises TransientError, TerminalError, and CorruptionError if they are too many."""
    body = io.BytesIO()
    objects.read(key, body, MOST_BYTES)
    return body.getvalue()


def download(objects: ObjectStore, key: str, path: Path, sha256: str, size: int | None = None) -> int:
    """Download an object (of `size` bytes, if known) to a file; returns the bytes that came, 0 if it was here.

    Raises CorruptionError if the object has another SHA-256 (hex), ConflictError if the file has, and what the store
    raises.
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


def check_same(objects: ObjectStore, key: str, path: Path, content: bytes) -> None:
    """Raise ConflictError if a file exists there that differs from what came from that key."""
    if path.exists() and path.read_bytes() != content:
        raise _conflict(objects, key, path)


def write_record(objects: ObjectStore, key: str, path: Path, content: bytes) -> int:
    """Write what came from that key to a file; returns the bytes that are new. Raises ConflictError."""
    check_same(objects, key, path, content)
    if path.exists():
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    return len(content)


def _conflict(objects: ObjectStore, key: str, path: Path) -> ConflictError:
    return ConflictError(
        f"{path}: differs from {key} in {objects.bucket}; nothing was overwritten: compare the two and move one away"
    )


def day_keys(bucket: Bucket, day: Day) -> tuple[str, str]:
    """Return the keys of a closed day's file and of its record."""
    file, keys = str(day.file), bucket.keys
    return keys.of_day(day.feed, day.date, file), keys.of_day(day.feed, day.date, day_record(Path(file).stem))


def is_within(part: Day, whole: Day) -> bool:
    """Return whether all batches of one day are in the other too, with the same content."""
    return _contents(part) <= _contents(whole)


def _contents(day: Day) -> set[tuple[str, str]]:
    return {(each.batch, each.sha256) for each in day.batches}


def keys_of_days(objects: ObjectStore, feed: str | None = None, date: str | None = None) -> dict[str, int]:
    """Return all objects of closed days, their bytes by their keys; of one feed and date, or of all."""
    keys = objects.bucket.keys
    return objects.keys(keys.days if feed is None or date is None else keys.of_day(feed, date))


def dates_of(objects: ObjectStore, listed: Collection[str]) -> set[str]:
    """Return the dates of the closed days whose records are among these keys."""
    return {day[1] for day in map(objects.bucket.keys.day_at, listed) if day is not None}


def remote_days(
    objects: ObjectStore, listed: Collection[str], date: str | None = None,
    wrong: list[CorruptionError | ConflictError] | None = None,
) -> list[RemoteDay]:  # fmt: skip
    """Read the closed days (of that date) whose records are among these keys, those of most batches first.

    Their files may be missing: a day that is being replaced loses its file first. A record that is not as it was
    written is appended to `wrong`, and the others are returned; without that list CorruptionError is raised.
    """
    found = []
    for key in sorted(listed):
        name = objects.bucket.keys.day_at(key)
        if name is not None and date in (None, name[1]):
            try:
                found.append(_read_day(objects, key, *name))
            except CorruptionError as error:
                if wrong is None:
                    raise
                wrong.append(error)
    return sorted(found, key=lambda each: (each.day.date, each.day.feed, -len(each.day.batches), each.key))


def _read_day(objects: ObjectStore, key: str, feed: str, date: str, stem: str) -> RemoteDay:
    content = read_record(objects, key)
    day = decode(content, Day, f"{objects.bucket}: {key}")
    if day.file is None or (day.feed, day.date, PurePosixPath(day.file).stem) != (feed, date, stem) or "/" in day.file:
        raise CorruptionError(f"{objects.bucket}: {key} describes another day than its name; `tape verify --remote`")
    return RemoteDay(key, content, day, objects.bucket.keys.of_day(feed, date, day.file))
