"""Where does everything lie, and how does it get there without ever being half there?

    DATA_DIR/
      spool/<session>/    journals being written, with their checksums    (capture)
      sealed/             complete CSV batches, each with its seal        (capture → validate)
      validated/          rows that passed, each with its report          (validate → compress)
      quarantine/         rows and frames that did not, with reasons
      archive/feed=F/date=YYYY-MM-DD/   Parquet, manifest, receipt        (compress → upload)
      days/feed=F/date=YYYY-MM-DD/      the day's batches as one file     (merge)
      sessions/<session>/ request, status, events, log and record of each session
      locks/              one file for each batch that is being worked on

A file is written beside its place under a name that no reader lists, synced, and renamed. A step's own record
(seal, report, manifest, receipt) is renamed last: where the record stands, the step is done. The record of a removal
comes first: where a file is gone, it says why.
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

# Inode, size, and when content and entry were last changed (ns): of the four the last cannot be set by anybody.
FileState = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Store:
    """The data folder. Creating the record creates no folder: `prepare` does."""

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
        """Create the folders that are missing. Raises OSError where the place cannot be written."""
        folders = self.spool, self.sealed, self.validated, self.quarantine, self.archive, self.sessions, self.locks
        if not all(folder.is_dir() for folder in folders):
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            sync(self.root)
        return self

    def archive_folder(self, feed: str, date: str) -> Path:
        """Where the archived batches of that feed and day lie; Hive-style, so that readers can prune."""
        return self.archive / names.day_folder(feed, date)

    def day_folder(self, feed: str, date: str) -> Path:
        """Where the merged file of that feed and day lies: not in the archive, whose readers would count twice."""
        return self.days / names.day_folder(feed, date)

    def day_record(self, feed: str, date: str) -> Path:
        """Where the record of that closed day lies, or would lie."""
        return self.day_folder(feed, date) / names.day_record(date)

    def index_of(self, feed: str, date: str) -> Path:
        """Where the catalog keeps what it has read of that day: a cache, which may be removed at any time."""
        return self.root / "cache" / "catalog" / f"{names.day_folder(feed, date)}.index"

    def sealed_batches(self) -> list[BatchName]:
        """The batches that wait for validation, oldest first."""
        return _names(self.sealed.glob("*.seal.json"))

    def validated_batches(self) -> list[BatchName]:
        """The batches that wait for compression, oldest first."""
        return _names(self.validated.glob("*.report.json"))

    def manifests(self, feed: str = "*", date: str = "*") -> list[Path]:
        """The manifest of every archived batch, of one feed and day or of all, in order of recording."""
        paths = self.archive.glob(f"{names.day_folder(feed, date)}/{names.MANIFESTS}")
        return sorted(paths, key=lambda path: BatchName.parse(path.name))

    def manifest_of(self, name: BatchName) -> Path | None:
        """The manifest of that batch, or None while it is not archived."""
        return next(self.archive.glob(f"{names.DAY_FOLDERS}/{name.manifest}"), None)

    @contextmanager
    def locked(self, name: BatchName | str) -> Iterator[None]:
        """Hold that batch, or whatever is called so, alone, across threads and processes; waits for whoever holds it.

        The lock dies with its holder. Its file is removed on leaving, so that none pile up: a waiter that
        then holds a file without a name takes the new one.
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
    """What tells a file from any other that had its name, or from itself before it was changed."""
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def sha256_of(path: Path) -> str:
    """The SHA-256 (hex) of a file's bytes. Raises FileNotFoundError and OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unfinished(path: Path) -> Path:
    """The name under which `path` is written until it is whole; no `*`-glob of the store lists it."""
    return path.with_name(f".{path.name}.tmp")


def begun(path: Path) -> Path:
    """`unfinished(path)` as a new, empty file: what lies there, of a crash or planted as a link, is not written to.

    Raises OSError where it cannot be made.
    """
    temporary = unfinished(path)
    temporary.unlink(missing_ok=True)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
    return temporary


def publish(path: Path) -> None:
    """Sync what was written as `unfinished(path)` and give it its name, replacing what stands there.

    On return the file survives a loss of power. Raises OSError; then the old file, if any, is untouched.
    """
    temporary = unfinished(path)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


@contextmanager
def at_work_in(folder: Path, command: str = "tape archive") -> Iterator[None]:
    """Have a disk that is full, gone or read-only say so, as a TransientError with the place and the next step."""
    try:
        yield
    except OSError as error:
        said = " ".join(str(error.strerror or error).split())[:200]
        raise TransientError(
            f"{error.filename or folder}: cannot be read or written ({said}); nothing is lost: "
            f"mend the disk or make room, then run `{command}`"
        ) from error


def write_whole(path: Path, content: bytes) -> None:
    """Put `content` at `path`: whole, synced, or not at all."""
    with _naming(path):
        begun(path).write_bytes(content)
    publish(path)


def sync(path: Path) -> None:
    """Make a file's content, or a folder's names, survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with _naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Have an error of a write or a sync say which file it is about: the system knows a descriptor only."""
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
