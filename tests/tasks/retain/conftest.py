"""A closed day of three small batches, and the bucket that it may have gone to."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conftest import archive_sealed

from tasks.merge.day import merge
from tasks.records.names import BatchName
from tasks.retain.rule import Remote
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.object_store import object_matches, remove_objects
from tasks.upload.uploads import upload_batch, upload_day

T = 1_764_000_000_000_000_000
DATE = "2026-11-24"
SESSION = "20261124T143000Z-9f3c01ab"
NAMES = [BatchName(SESSION, 0, number) for number in range(3)]


@pytest.fixture
def archived(store: Store, sealed_batch: Callable[..., BatchName]) -> Callable[..., Path]:
    """Archives a small batch: `archived(name, date=DATE)` returns its manifest."""

    def archive(name: BatchName, date: str = DATE) -> Path:
        first = name.number * 50
        lines = [b"1,%d,%d,%d,A%d,%d.5,%d,1\n" % (n, T + n * 7, T, n % 3, n, n) for n in range(first + 1, first + 51)]
        sealed_batch([*lines, b"rubbish\n"], name=name, symbols=["A0", "A1", "A2"], date=date)
        return archive_sealed(store, name)

    return archive


@pytest.fixture
def closed(store: Store, archived: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed day of three batches whose own files still exist; made once for all tests."""
    made = tmp_path_factory.getbasetemp() / "closed-day"
    if not made.exists():
        for name in NAMES:
            archived(name)
        close(store)
        shutil.copytree(store.root, made)
    shutil.copytree(made, store.root, dirs_exist_ok=True)
    return next(store.days.rglob("*.parquet"))


def close(store: Store, date: str = DATE) -> Path:
    """Merge a day; returns its file."""
    day = merge(store, "finnhub", date)
    assert day is not None
    return store.day_folder("finnhub", date) / str(day.file)


@pytest.fixture
def remote(bucket: Bucket) -> Remote:
    """The bucket as the flow passes it to the rule."""
    return remote_of(bucket)


def remote_of(bucket: Bucket) -> Remote:
    """A bucket as the flow passes it to the rule."""
    return Remote(str(bucket), bucket.place, partial(object_matches, bucket), partial(remove_objects, bucket))


def send(store: Store, bucket: Bucket, *dates: str) -> None:
    """Upload every batch, and the day files of these dates."""
    for path in store.manifests():
        upload_batch(store, BatchName.parse(path.name), bucket, lambda: T)
    for date in dates:
        assert upload_day(store, "finnhub", date, bucket, lambda: T, pytest.fail) is not None


def files(store: Store) -> dict[str, bytes]:
    """Every file of the data folder except locks."""
    found = {str(path.relative_to(store.root)): path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    return {path: content for path, content in found.items() if not path.startswith("locks/")}
