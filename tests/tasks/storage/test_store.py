"""The layout of the data folder, and atomic writes."""

import errno
import os
import threading
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest

from tasks.errors import TransientError
from tasks.records.names import BatchName, feed_and_date
from tasks.storage.store import (
    Store,
    at_work_in,
    begun,
    publish,
    sha256_of,
    sync,
    unfinished,
    write_whole,
)

SESSIONS = ("20261124T143000Z-9f3c01ab", "20261123T143000Z-9f3c01ab")
NAMES = sorted(BatchName(session, lane, number) for session in SESSIONS for lane in (0, 1) for number in (2, 10))


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is synced, in order."""
    names, real = list[str](), os.fsync

    def note(descriptor: int) -> None:
        names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return names


def test_the_folders_are_made_once(tmp_path: Path, synced: list[str]) -> None:
    """`prepare` creates all folders except those of days, and leaves existing ones alone."""
    store = Store(tmp_path / "a" / "data")
    assert store.prepare() is store
    made = {"spool", "sealed", "validated", "quarantine", "archive", "sessions", "locks"}
    assert {path.name for path in store.root.iterdir()} == made
    assert {path.relative_to(store.root).as_posix() for path in (
        store.spool, store.sealed, store.validated, store.quarantine, store.archive, store.sessions, store.locks,
    )} == made  # fmt: skip
    assert synced == ["data"]
    store.prepare()
    assert synced == ["data"]
    store.sealed.rmdir()
    store.prepare()
    assert (store.sealed.is_dir(), synced) == (True, ["data", "data"])


def test_the_places_of_a_day_say_feed_and_date(tmp_path: Path) -> None:
    """Folder names are Hive-style in both trees and can be parsed back."""
    store = Store(tmp_path)
    assert store.archive_folder("f", "2026-11-24") == tmp_path / "archive" / "feed=f" / "date=2026-11-24"
    assert store.day_folder("f", "2026-11-24") == tmp_path / "days" / "feed=f" / "date=2026-11-24"
    assert feed_and_date(store.day_folder("f", "2026-11-24")) == ("f", "2026-11-24")
    assert feed_and_date(store.archive_folder("date=", "feed=")) == ("date=", "feed=")


def test_batches_are_listed_in_the_order_of_recording(tmp_path: Path) -> None:
    """Batches are listed by their records only, on any day, whatever other files exist."""
    store = Store(tmp_path).prepare()
    for place, name in enumerate(NAMES[::-1]):
        folder = store.archive_folder("f", f"2026-11-2{place % 3}")
        folder.mkdir(parents=True, exist_ok=True)
        for path in (store.sealed / name.seal, store.validated / name.report, folder / name.manifest):
            path.touch()
            unfinished(path).touch()
        (store.sealed / name.sealed).touch()
        (store.validated / name.validated).touch()
    assert store.sealed_batches() == store.validated_batches() == NAMES
    assert [path.name for path in store.manifests()] == [name.manifest for name in NAMES]
    assert [store.manifest_of(name) for name in NAMES] == store.manifests()
    assert store.manifest_of(BatchName(SESSIONS[0], 7, 7)) is None


def test_a_file_is_whole_synced_and_named_last(tmp_path: Path, synced: list[str]) -> None:
    """A file is synced, renamed, and its folder synced, replacing an old file and leaving no draft."""
    path = tmp_path / "file"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert synced == [".file.tmp", tmp_path.name] * 2
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("file", b"two")]
    assert sha256_of(path) == sha256(b"two").hexdigest()


def test_a_draft_is_new_whatever_lies_in_its_place(tmp_path: Path) -> None:
    """A crash's leftover is not continued, and a planted link is not followed."""
    path = tmp_path / "file"
    unfinished(path).write_bytes(b"of a crash")
    assert begun(path) == unfinished(path) == tmp_path / ".file.tmp"
    assert begun(path).read_bytes() == b""
    unfinished(path).unlink()
    unfinished(path).symlink_to(tmp_path / "elsewhere")
    write_whole(path, b"x")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    with pytest.raises(FileNotFoundError):
        publish(path)
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_an_error_of_the_disk_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Errors get the file's name if they have none, and no descriptor stays open."""
    named = str(tmp_path / "other") if call == "open" else None

    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error", named)

    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match="Input/output error") as told:
        sync(tmp_path)
    monkeypatch.undo()
    assert told.value.filename == (named or str(tmp_path))
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


def test_a_disk_that_refuses_is_a_transient_error_with_the_next_step(tmp_path: Path) -> None:
    """An OSError becomes one line with place, cause, and next command; other errors pass through."""
    with (
        pytest.raises(TransientError, match=r"^/x/y: cannot be read or written \(a b\); .* `tape archive`$") as told,
        at_work_in(tmp_path),
    ):
        raise OSError(errno.EIO, "a\n  b", "/x/y")
    assert isinstance(told.value.__cause__, OSError)
    with (
        pytest.raises(TransientError, match=rf"^{tmp_path}: .*\(odd\); .* `tape day`$"),
        at_work_in(tmp_path, "tape day"),
    ):
        raise OSError("odd")
    with pytest.raises(TransientError) as told, at_work_in(tmp_path):
        raise OSError(errno.EIO, "x" * 999)
    assert str(told.value).count("x") == 200
    with pytest.raises(KeyError), at_work_in(tmp_path):
        raise KeyError


def test_a_batch_is_held_by_one_at_a_time_and_leaves_no_lock(tmp_path: Path) -> None:
    """A lock is a file while held; a second holder waits, even if the first fails."""
    store, inside, order = Store(tmp_path), threading.Event(), list[str]()

    def second() -> None:
        inside.wait(20)
        with store.locked(NAMES[0]):
            order.append("second")

    thread = threading.Thread(target=second, daemon=True)
    thread.start()
    with suppress(RuntimeError), store.locked(NAMES[0]):
        assert [path.name for path in store.locks.iterdir()] == [f"{NAMES[0]}.lock"]
        inside.set()
        with store.locked("other"):
            order.append("first")
        raise RuntimeError
    thread.join(20)
    assert order == ["first", "second"]
    assert list(store.locks.iterdir()) == []
