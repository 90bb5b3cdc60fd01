"""Who is at work? Locks that die with their holder, one for a session and one for an API key.

The vendor allows one connection for a key. On one machine the key's lock is the guarantee; its name is a digest of
feed and key, its content the folder of the session that holds it, so that a second start can find the first.
"""

import fcntl
import os
import tempfile
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

SESSION_LOCK = "recorder.lock"


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


def take(path: Path) -> Lock | None:
    """The lock of that file, or None while another process holds it. Raises OSError where it cannot be made."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)  # What an earlier holder had written is not this one's.
    return Lock(descriptor)


def is_held(path: Path) -> bool:
    """Whether a living process holds that file's lock."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
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
    """The lock of that key on this machine, in a folder that only this user can write."""
    folder = Path(tempfile.gettempdir()) / f"stock-tracing-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; remove it")
    name = blake2b(f"{feed_url}\n{key}".encode(), digest_size=16, person=b"stock-tracing").hexdigest()
    return folder / f"{name}.lock"
