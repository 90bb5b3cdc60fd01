"""The layout of the data folder, and atomic writes to it.

    DATA_DIR/
      spool/<session>/    journals being written, with their checksums    (capture)
      sealed/             complete CSV batches, each with its seal        (capture → validate)
      validated/          rows that passed, each with its report          (validate → compress)
      quarantine/         rows and frames that did not, with reasons
      archive/feed=F/date=YYYY-MM-DD/   Parquet, manifest, receipt        (compress → upload)
      days/feed=F/date=YYYY-MM-DD/      the day's batches as one file     (merge)
      sessions/<session>/ request, status, events, log and record of each session
      locks/              one file for each batch that is being worked on

A file is written under a temporary name that no reader lists, synced, and renamed. A step's own record (seal, report,
manifest, receipt) is renamed last: if the record exists, the step is done. The record of a removal is written first, so
that it explains every missing file.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import TransientError
from tasks.records import names
from tasks.records.names import BatchName

# Inode, size, and when content and inode were last changed (ns); nobody can set the last one.
FileState = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Store:
    """The data folder. Creating this object creates no folders; `prepare` does."""

    root: Path

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    @property
    def sealed(self) -> Path:
        return self.root / "sealed"

    @property
    def validated(self) -> Path:
        return self.root / "validated"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    @property
    def archive(self) -> Path:
        return self.root / "archive"

    @property
    def days(self) -> Path:
        return self.root / "days"

    @property
    def sessions(self) -> Path:
        return self.root / "sessions"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    def prepare(self) -> "Store":
        """Create missing folders. Raises OSError if the place is not writable."""
        folders = self.spool, self.sealed, self.validated, self.quarantine, self.archive, self.sessions, self.locks
        if not all(folder.is_dir() for folder in folders):
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            sync(self.root)
        return self

    def archive_folder(self, feed: str, date: str) -> Path:
        """Return the folder of a feed's archived batches of one day; Hive-style, so that readers can prune."""
        return self.archive / names.day_folder(feed, date)

    def day_folder(self, feed: str, date: str) -> Path:
        """Return the folder of a day's merged file; outside the archive, so that its readers do not count twice."""
        return self.days / names.day_folder(feed, date)

    def day_record(self, feed: str, date: str) -> Path:
        """Return the path of a closed day's record, whether or not it exists."""
        return self.day_folder(feed, date) / names.day_record(date)

    def index_of(self, feed: str, date: str) -> Path:
        """Return the path of the catalog's cache of one day, which can be deleted at any time."""
        return self.root / "cache" / "catalog" / f"{names.day_folder(feed, date)}.index"

    def sealed_batches(self) -> list[BatchName]:
        """Return the batches that wait for validation, oldest first."""
        return _names(self.sealed.glob("*.seal.json"))

    def validated_batches(self) -> list[BatchName]:
        """Return the batches that wait for compression, oldest first."""
        return _names(self.validated.glob("*.report.json"))

    def manifests(self, feed: str = "*", date: str = "*", session: str = "") -> list[Path]:
        """Return the manifests of archived batches, of one feed, day, and session or of all, in order of recording."""
        paths = self.archive.glob(f"{names.day_folder(feed, date)}/_{session}{names.MANIFESTS}")
        return sorted(paths, key=lambda path: BatchName.parse(path.name))

    def manifest_of(self, name: BatchName) -> Path | None:
        """Return the manifest of a batch, or None if it is not archived yet."""
        return next(self.archive.glob(f"{names.DAY_FOLDERS}/{name.manifest}"), None)

    @contextmanager
    def locked(self, name: BatchName | str) -> Iterator[None]:
        """Acquire an exclusive lock on that name, across threads and processes; blocks until it is free.

        The lock ends with its holder. Its file is removed on release, so that files do not pile up; a waiter that then
        holds a file without a name tries again with the new one.
        """
        path = self.locks / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _is_file(descriptor, path):
                    try:
                        yield
                    finally:
                        path.unlink(missing_ok=True)
                    return
            finally:
                os.close(descriptor)


def state_of(found: os.stat_result) -> FileState:
    """Return what distinguishes a file from others that had its name, and from itself before a change."""
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def sha256_of(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes. Raises FileNotFoundError and OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unfinished(path: Path) -> Path:
    """Return the temporary name under which `path` is written; no `*` glob of the store matches it."""
    return path.with_name(f".{path.name}.tmp")


def begun(path: Path) -> Path:
    """Create `unfinished(path)` as a new, empty file; never writes to a leftover file or a planted link.

    Raises OSError if it cannot be created.
    """
    temporary = unfinished(path)
    temporary.unlink(missing_ok=True)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
    return temporary


def publish(path: Path) -> None:
    """Sync what was written as `unfinished(path)` and rename it to `path`, replacing an old file.

    On return the file survives a power failure. Raises OSError; then the old file, if any, is untouched.
    """
    temporary = unfinished(path)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


@contextmanager
def at_work_in(folder: Path, command: str = "tape archive") -> Iterator[None]:
    """Turn OSErrors in this block into TransientErrors that name the place and the next step."""
    try:
        yield
    except OSError as error:
        said = " ".join(str(error.strerror or error).split())[:200]
        raise TransientError(
            f"{error.filename or folder}: cannot be read or written ({said}); nothing is lost: "
            f"repair the disk or make room, then run `{command}`"
        ) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically and sync it."""
    with _naming(path):
        begun(path).write_bytes(content)
    publish(path)


def sync(path: Path) -> None:
    """Sync a file's content, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with _naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the file name to errors of a write or sync, for which the system knows only a descriptor."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _names(paths: Iterator[Path]) -> list[BatchName]:
    return sorted(BatchName.parse(path.name) for path in paths)


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)
