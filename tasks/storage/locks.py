"""Who is at work? Locks that die with their holder, one for a session and one for an API key.

The vendor allows one connection for a key. On one machine the key's lock is the guarantee; its name is a digest of
feed and key, its content the folder of the session that holds it, so that a second start can find the first.

The lock lies in the home that the system's user database gives for the user, not in that of HOME, and not in TMPDIR:
two processes of one user may have different environments, and what cleans temporary folders would remove the file
while it is locked, and let the next recorder make another. Users without a home have it in shared memory, which every
Linux has and no cleaner empties while its user's processes run.
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
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the folder there is the user's own, and checked.
_MACHINE_ID = Path("/etc/machine-id")
_UNUSED_FOR_S = 86_400.0
# A home that is none, is read-only, or lies on a file system that knows no locks.
_NO_PLACE = {
    errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOLCK, errno.ENOSYS,
    errno.EOPNOTSUPP,
}  # fmt: skip
# Longer than anybody holds a lock who only looks whether it is held.
_LOOK_S = 0.2


class Lock:
    """A file locked by this process until `release`, or until the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Let others take it. The file stays, for its name is the place to look."""
        with suppress(OSError):
            os.close(self._descriptor)

    def write(self, text: str) -> None:
        """Say who holds it, once."""
        os.pwrite(self._descriptor, text.encode(), 0)


def acquire(path: Path) -> Lock | None:
    """The lock of that file, or None while another process holds it. Raises OSError where it cannot be made."""
    until_s = time.monotonic() + _LOOK_S
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Where it was removed between the two, whoever comes next would lock another file.
            if _is_file(descriptor, path):
                os.ftruncate(descriptor, 0)  # What an earlier holder had written is not this one's.
                return Lock(os.dup(descriptor))
        except BlockingIOError:
            if time.monotonic() > until_s:
                return None
            time.sleep(_LOOK_S / 20)
        finally:
            os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a living process holds that file's lock."""
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
    """The lock of that key on this machine, in a folder that only this user can write.

    However the feed's address is spelled, it is one lock. Raises TerminalError where there is no place for it.
    """
    address = address_of(feed_url)
    host = "localhost" if address.is_loopback else address.host
    # With TLS or without, and whatever the path: it is the vendor who counts connections.
    port = "" if address.is_default_port else f":{address.port}"
    # A home may be shared by machines, each of which has a lock of its own.
    text = f"{host}{port}\n{key}\n{_machine()}"
    name = blake2b(text.encode(), digest_size=16, person=b"stock-tracing").hexdigest()
    path = lock_folder(list(_places(os.getuid()))) / f"{name}.lock"
    with suppress(FileNotFoundError):
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise TerminalError(f"{path}: is a link, not the lock of an API key; remove it")
    return path


def forget_unused(folder: Path, now_s: float | None = None) -> None:
    """Remove the locks in a folder that nobody holds and nobody has taken for a day: a port of a replay has its own."""
    for path in folder.glob("*.lock"):
        with suppress(OSError):
            if (time.time() if now_s is None else now_s) - path.lstat().st_mtime > _UNUSED_FOR_S:
                lock = acquire(path)
                if lock is not None:
                    path.unlink()
                    lock.release()


def lock_folder(places: Sequence[Path]) -> Path:
    """The first of these folders in which a file can be made and locked; it is made where it is missing.

    Raises TerminalError where there is none, and where the first that is there belongs to others or can be written by
    them: they could take the lock away. Raises TransientError where its disk is full or broken.
    """
    reasons = []
    for folder in places:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            _check_own(folder)
            _check_locks(folder)
        except OSError as error:
            if error.errno not in _NO_PLACE:  # Not for another place: who comes when it is mended would not look there.
                raise TransientError(f"{folder}: takes no lock of the API key ({error.strerror}); make room") from error
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
        raise TerminalError(f"{folder}: is a link, and could lead anywhere; remove it")
    if found.st_uid != os.getuid():
        raise TerminalError(f"{folder}: belongs to another user; have it removed")
    if found.st_mode & 0o022:
        raise TerminalError(f"{folder}: can be written by others; run `chmod 700 {folder}`")


def _check_locks(folder: Path) -> None:
    """Raises OSError where no file can be made there, or none can be locked."""
    descriptor = os.open(folder / ".probe", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _machine() -> str:
    try:
        return _MACHINE_ID.read_text().strip()
    except OSError:  # A container has none, and a home of its own.
        return ""


def _is_file(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that has this name now."""
    held = os.fstat(descriptor)
    try:
        named = path.lstat()
    except FileNotFoundError:
        return False
    return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)
