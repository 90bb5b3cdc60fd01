"""A lock whose file is removed while others wait for it is still held by only one."""

import fcntl
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from recording import wait_for

from tasks.storage.locks import acquire
from tasks.storage.store import Store


def opened(path: Path) -> list[str]:
    """List this process's open files under that name, including removed ones."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(each.readlink()))
        except FileNotFoundError:
            continue
    return [name for name in found if name.startswith(str(path))]


def held(path: Path) -> int:
    """A descriptor of that file, locked."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="/proc tells who has opened the lock")
def test_who_waited_for_a_lock_that_was_removed_waits_for_its_successor(store: Store) -> None:
    """A waiter that locks a removed file tries again until it holds the file that has the name."""
    path, inside, leave = store.locks / "day.lock", threading.Event(), threading.Event()

    def wait() -> None:
        with store.locked("day"):
            inside.set()
            leave.wait(20)

    first, waiter = held(path), threading.Thread(target=wait)
    waiter.start()
    try:
        wait_for(lambda: len(opened(path)) == 2)
        path.unlink()  # The first leaves, and a third comes before the waiter has woken.
        third = held(path)
        os.close(first)
        wait_for(lambda: inside.is_set() or opened(path) == [str(path)] * 2)
        assert not inside.is_set()
        os.close(third)
        wait_for(inside.is_set)
        assert opened(path) == [str(path)]
        assert path.exists()
    finally:
        leave.set()
        waiter.join(20)
    assert not path.exists()


def test_of_many_in_a_row_one_is_inside_at_a_time(store: Store) -> None:
    """However often many threads create and remove the file, no two hold the lock at once."""
    inside, most, turns = 0, 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most, turns
        for _ in range(100):
            with store.locked("day"):
                with guard:
                    inside += 1
                    most = max(most, inside)
                os.sched_yield()
                with guard:
                    inside -= 1
                    turns += 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (most, turns) == (1, 600)


def test_a_lock_removed_between_its_opening_and_its_locking_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another process recreates and locks the file at that moment, no second holder gets the lock."""
    path, others, real = tmp_path / "key.lock", list[int](), fcntl.flock

    def flock(descriptor: Any, how: int) -> None:
        if not others:
            path.unlink()
            others.append(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            real(others[0], fcntl.LOCK_EX)
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    assert acquire(path) is None
    os.close(others[0])
    lock = acquire(path)
    assert lock is not None
    lock.release()
