"""Locks that end with their holder: one per session and one per API key.

The vendor allows one connection per key. On one machine the key's lock guarantees this. Its name is a digest of feed
and key; its content is the folder of the session that holds it, so that a second start can find the first.

The lock is in the home folder from the system's user database, not in HOME or TMPDIR: two processes of one user may
have different environments, and a cleaner of temporary folders would delete the file while it is locked, so that the
next recorder could create another. Users without a home have it in shared memory, which every Linux has and which no
cleaner empties while the user's processes run.
"""

import errno
import fcntl
import os
import pwd
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from tasks.address import address_of
from tasks.errors import TerminalError, TransientError

SESSION_LOCK = "recorder.lock"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the folder there belongs to the user, and is checked.
_MACHINE_ID = Path("/etc/machine-id")
_UNUSED_FOR_S = 86_400.0
# A home that does not exist, is read-only, or is on a file system without locks.
_NO_PLACE = {
    errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOLCK, errno.ENOSYS,
    errno.EOPNOTSUPP,
}  # fmt: skip
# Longer than anyone holds a lock just to check whether it is held.
_LOOK_S = 0.2


class Lock:
    """A file locked by this process until `release`, or until the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock. The file stays, so that others find it by name."""
        with suppress(OSError):
            os.close(self._descriptor)

    def write(self, text: str) -> None:
        """Write who holds it, once."""
        os.pwrite(self._descriptor, text.encode(), 0)


def acquire(path: Path) -> Lock | None:
    """Acquire the lock of that file, or return None if another process holds it. Raises OSError."""
    until_s = time.monotonic() + _LOOK_S
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # If the file was removed in between, the next process would lock another file.
            if _is_file(descriptor, path):
                os.ftruncate(descriptor, 0)  # Drop what an earlier holder wrote.
                return Lock(os.dup(descriptor))
        except BlockingIOError:
            if time.monotonic() > until_s:
                return None
            time.sleep(_LOOK_S / 20)
        finally:
            os.close(descriptor)


def is_held(path: Path) -> bool:
    """Return whether a running process holds that file's lock."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def key_lock_path(feed_url: str, key: str) -> Path:
    """Return the path of a key's lock on this machine, in a folder that only this user can write.

    Every spelling of the feed's URL gives the same lock. Raises TerminalError if there is no place for it.
    """
    address = address_of(feed_url)
    host = "localhost" if address.is_loopback else address.host
    # TLS and the path do not matter: the vendor counts connections.
    port = "" if address.is_default_port else f":{address.port}"
    # Machines may share a home; each has its own lock.
    text = f"{host}{port}\n{key}\n{_machine()}"
    name = blake2b(text.encode(), digest_size=16, person=b"stock-tracing").hexdigest()
    path = lock_folder(list(_places(os.getuid()))) / f"{name}.lock"
    with suppress(FileNotFoundError):
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise TerminalError(f"{path}: is a link, not the lock of an API key; remove it")
    return path


def forget_unused(folder: Path, now_s: float | None = None) -> None:
    """Remove locks that nobody holds and nobody took for a day; every port of a replay leaves one."""
    for path in folder.glob("*.lock"):
        with suppress(OSError):
            if (time.time() if now_s is None else now_s) - path.lstat().st_mtime > _UNUSED_FOR_S:
                lock = acquire(path)
                if lock is not None:
                    path.unlink()
                    lock.release()


def lock_folder(places: Sequence[Path]) -> Path:
    """Return the first of these folders in which a file can be created and locked; creates it if necessary.

    Raises TerminalError if there is none, or if the first one belongs to others or is writable by them: they could
    remove the lock. Raises TransientError if its disk is full or broken.
    """
    reasons = []
    for folder in places:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            _check_own(folder)
            _check_locks(folder)
        except OSError as error:
            # Do not fall back: a process that starts after the disk is fixed would not look there.
            if error.errno not in _NO_PLACE:
                raise TransientError(
                    f"{folder}: cannot hold the lock of the API key ({error.strerror}); make room"
                ) from error
            reasons.append(f"{folder} ({error.strerror})")
        else:
            return folder
    raise TerminalError(
        f"no place for the lock of the API key: {', '.join(reasons) or 'this user has no home'}; give the user a home"
    )


def _places(uid: int) -> Iterator[Path]:
    with suppress(KeyError, OSError):
        home = Path(pwd.getpwuid(uid).pw_dir)
        if home.is_absolute() and home.stat().st_uid == uid:
            yield home / ".local" / "state" / "stock-tracing"
    if _SHARED_MEMORY.is_dir():
        yield _SHARED_MEMORY / f"stock-tracing-{uid}"


def _check_own(folder: Path) -> None:
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise TerminalError(f"{folder}: is a link and could point anywhere; remove it")
    if found.st_uid != os.getuid():
        raise TerminalError(f"{folder}: belongs to another user; have it removed")
    if found.st_mode & 0o022:
        raise TerminalError(f"{folder}: is writable by others; run `chmod 700 {folder}`")


def _check_locks(folder: Path) -> None:
    """Raise OSError if no file can be created or locked there."""
    descriptor = os.open(folder / ".probe", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _machine() -> str:
    try:
        return _MACHINE_ID.read_text().strip()
    except OSError:  # A container has none, but has its own home.
        return ""


def _is_file(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that has this name now."""
    held = os.fstat(descriptor)
    try:
        named = path.lstat()
    except FileNotFoundError:
        return False
    return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)
