"""There is one lock per key on a machine, wherever a process has its home and temporary folders."""

import errno
import fcntl
import os
import pwd
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.errors import TerminalError, TransientError
from tasks.storage.locks import Lock, acquire, forget_unused, is_held, key_lock_path, lock_folder

URL, KEY = "wss://feed.example", "a-very-secret-key"
HELD = """
import sys
from tasks.storage.locks import is_held, key_lock_path
print(is_held(key_lock_path(*sys.argv[1:])))
"""


@pytest.fixture
def key_lock() -> Iterator[Lock]:
    """The lock of URL and KEY, held by the test's process."""
    path = key_lock_path(URL, KEY)
    lock = acquire(path)
    assert lock is not None
    yield lock
    path.unlink(missing_ok=True)
    lock.release()


def held_elsewhere(*arguments: str, **environment: str) -> bool:
    """Return whether another process with that environment finds the lock held."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    printed = subprocess.run(
        [sys.executable, "-c", HELD, *arguments],
        env={**kept, **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    return printed.stdout.strip() == "True"


@pytest.mark.parametrize("name", ["HOME", "TMPDIR", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "PATH"])
def test_no_variable_moves_the_lock(tmp_path: Path, key_lock: Lock, name: str) -> None:
    """A process with another home and other temporary folders finds the key in use, and other keys not."""
    assert held_elsewhere(URL, KEY, **{name: str(tmp_path)})
    assert not held_elsewhere(URL, "another-key", **{name: str(tmp_path)})


def test_no_temporary_folder_holds_the_lock() -> None:
    """Periodic cleanup of temporary folders cannot lose a lock, which is in the user's home."""
    path = key_lock_path(URL, KEY)
    assert path.is_relative_to(pwd.getpwuid(os.getuid()).pw_dir)
    assert not path.is_relative_to(tempfile.gettempdir())
    assert KEY not in str(path)


@pytest.mark.parametrize(
    ("spelling", "of"),
    [
        ("WSS://Feed.EXAMPLE", URL),
        ("wss://feed.example:443", URL),
        ("wss://feed.example/", URL),
        ("wss://feed.example./a/b", URL),
        ("ws://feed.example:80", URL),
        ("ws://localhost:8765", "ws://127.0.0.1:8765"),
        ("ws://[::1]:8765/x", "ws://127.1:8765"),
        ("wss://xn--mnchen-3ya.example", "wss://MÜNCHEN.example"),
    ],
)
def test_every_spelling_of_an_address_is_the_same_lock(spelling: str, of: str) -> None:
    """URLs that differ in case, default port, path, final dot, or TLS share one lock."""
    assert key_lock_path(spelling, KEY) == key_lock_path(of, KEY)


def test_other_hosts_ports_and_keys_have_locks_of_their_own() -> None:
    """Another service, or another key of the same one, has its own lock."""
    urls = (URL, "wss://feed.example:8443", "wss://other.example", "ws://127.0.0.1:1", "ws://127.0.0.1:2")
    assert len({key_lock_path(url, key) for url in urls for key in (KEY, KEY + "x")}) == 2 * len(urls)


def test_the_folder_is_the_users_own(tmp_path: Path) -> None:
    """The folder is made so that others can neither read nor write it."""
    folder = lock_folder([tmp_path / "home" / "state" / "locks"])
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    """A lock folder that others can write is rejected, with the command that fixes it."""
    folder = tmp_path / "locks"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(TerminalError, match=f"{folder}: is writable by others; run `chmod 700 {folder}`"):
        lock_folder([folder, tmp_path / "other"])


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """A lock folder that is a link is rejected."""
    (tmp_path / "theirs").mkdir(mode=0o700)
    (tmp_path / "locks").symlink_to(tmp_path / "theirs")
    with pytest.raises(TerminalError, match="is a link"):
        lock_folder([tmp_path / "locks"])
    assert list((tmp_path / "theirs").iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """A lock folder that another user made is rejected."""
    (tmp_path / "locks").mkdir(mode=0o700)
    os.chown(tmp_path / "locks", 54321, 54321)
    with pytest.raises(TerminalError, match="belongs to another user"):
        lock_folder([tmp_path / "locks"])


def test_where_a_home_takes_no_file_the_next_place_is_used(tmp_path: Path) -> None:
    """A missing or read-only home is skipped; with no usable place, the error lists the reasons."""
    (tmp_path / "file").write_text("")
    unusable = [tmp_path / "file" / "locks", Path("/proc/nothing/locks")]
    assert lock_folder([*unusable, tmp_path / "locks"]) == tmp_path / "locks"
    with pytest.raises(TerminalError, match=f"no place for the lock of the API key: {unusable[0]} \\(File exists\\)"):
        lock_folder(unusable)


def test_a_full_disk_moves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a full home disk the lock is not put elsewhere, where later processes would not see it."""
    real = os.open

    def full(path: Path, *arguments: int) -> int:
        if str(path).startswith(str(tmp_path / "full")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(
        TransientError, match="cannot hold the lock of the API key \\(No space left on device\\); make room"
    ):
        lock_folder([tmp_path / "full", tmp_path / "other"])


@pytest.mark.skipif(os.getuid() != 0, reason="only root becomes another user")
@pytest.mark.parametrize("home", ["/nonexistent", ""])
def test_a_user_without_a_home_has_a_place_too(home: str) -> None:
    """A system user, and one unknown to the user database, use a lock in shared memory."""
    program = f"""
import os, pwd
from tasks.storage.locks import key_lock_path, acquire
"x".encode("idna")
os.setgid(54321); os.setuid(54321)
if {home!r}:
    entry = list(pwd.getpwnam("nobody")); entry[2] = 54321; entry[5] = {home!r}
    pwd.getpwuid = lambda _uid: pwd.struct_passwd(entry)
path = key_lock_path("{URL}", "{KEY}")
assert acquire(path) is not None
print(path)
for each in path.parent.iterdir(): each.unlink()
path.parent.rmdir()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.startswith("/dev/shm/stock-tracing-54321/"), done.stderr


@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_a_planted_link_is_not_followed(tmp_path: Path, key_lock: Lock, link: str) -> None:
    """A link with the lock's name is not followed: its target is neither locked nor truncated."""
    path = key_lock_path(URL, KEY + link)
    precious = path.parent / f".precious-{os.getpid()}"
    precious.write_text("precious")
    try:
        path.symlink_to(precious) if link == "symbolic" else path.hardlink_to(precious)
        with pytest.raises(TerminalError, match="is a link"):
            key_lock_path(URL, KEY + link)
        if link == "symbolic":
            with pytest.raises(OSError, match="symbolic links"):
                acquire(path)
        assert precious.read_text() == "precious"
    finally:
        path.unlink()
        precious.unlink()


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(tmp_path: Path) -> None:
    """The lock is on the file that currently has the name, so a new holder is always seen."""
    path = tmp_path / "key.lock"
    first = acquire(path)
    assert first is not None
    path.unlink()
    second = acquire(path)
    assert second is not None
    assert is_held(path)
    second.write("the second")
    first.release()
    assert (is_held(path), path.read_text(), acquire(path)) == (True, "the second", None)
    second.release()
    assert not is_held(path)


def test_who_only_looks_does_not_keep_a_recorder_from_its_lock(tmp_path: Path) -> None:
    """Checking a lock holds it for an instant, and an acquirer at that moment waits."""
    path = tmp_path / "key.lock"
    path.touch()
    with path.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.05, looking.close).start()
        lock = acquire(path)
    assert lock is not None
    lock.release()


def test_locks_of_days_ago_are_removed_and_those_that_are_held_or_new_are_not(tmp_path: Path) -> None:
    """Lock files of replay ports are removed after a day without a holder."""
    paths = {name: tmp_path / f"{name}.lock" for name in ("held", "left", "new")}
    locks = {name: acquire(path) for name, path in paths.items()}
    for name in ("left", "new"):
        (lock := locks[name]) and lock.release()
    for name in ("held", "left"):
        os.utime(paths[name], (0, time.time() - 90_000))
    forget_unused(tmp_path)
    assert {name for name, path in paths.items() if path.exists()} == {"held", "new"}
