"""The rows of single batches are found in, and recovered from, their day's file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import archive_sealed

from tasks.archive.catalog import Catalog
from tasks.archive.day_files import unmerged
from tasks.archive.encodings import read_groups
from tasks.archive.side_records import removed
from tasks.archive.sorting import SortLimits
from tasks.errors import CorruptionError
from tasks.merge.day import merge
from tasks.records.manifest import Manifest, Removed, encode, read
from tasks.records.names import BatchName, removed_record
from tasks.storage.store import Store, write_whole

T = 1_764_000_000_000_000_000
DATE = "2026-11-24"
NAMES = [BatchName("20261124T143000Z-9f3c01ab", 0, number) for number in range(3)]


@pytest.fixture
def archived(store: Store, sealed_batch: Callable[..., BatchName]) -> Callable[[BatchName], Path]:
    """Archives a batch of two connections; returns its manifest."""

    def archive(name: BatchName) -> Path:
        lines = [
            b"%d,%d,%d,%d,%s,%d.50,%d,\n"
            % (1 + n // 40, n % 40 + 1, T + n, T - n * 7 % 90 * 10**9, (b"A", b"B")[n % 2], n, n)
            for n in range(80)
        ]  # fmt: skip
        sealed_batch(lines, name=name, symbols=["A", "AB", "B"])
        return archive_sealed(store, name)

    return archive


@pytest.fixture
def closed(store: Store, archived: Callable[[BatchName], Path]) -> Path:
    """A closed day's file."""
    for name in NAMES:
        archived(name)
    day = merge(store, "finnhub", DATE)
    assert day is not None
    return store.day_folder("finnhub", DATE) / str(day.file)


def gone(path: Path, file: str) -> None:
    write_whole(
        removed_record(path), encode(Removed(batch="x", file=file, removed_ns=1, why="merged", held_in=("there",)))
    )


def test_rows_come_back_as_they_were(store: Store, closed: Path, tmp_path: Path) -> None:
    """However much is spilled, the extracted batches equal their own files, value by value and in order."""
    for rows, names in [(7, NAMES), (1_000, NAMES[1:2])]:
        folder = tmp_path / str(rows)
        files = unmerged(closed, {str(name) for name in names}, folder, SortLimits(rows, 3))
        assert {*folder.iterdir()} == {*files.values()}
        for name in names:
            ours = pa.concat_tables(read_groups(store.archive_folder("finnhub", DATE) / name.archived))
            theirs = pa.concat_tables(read_groups(files[str(name)]))
            assert theirs.combine_chunks().equals(ours.combine_chunks())


def test_what_is_not_in_the_file_is_named(closed: Path, tmp_path: Path) -> None:
    """A batch without rows in the day, and a missing file, raise errors and give no empty files."""
    with pytest.raises(CorruptionError, match="no row of another"):
        unmerged(closed, ["another"], tmp_path)
    with pytest.raises(FileNotFoundError):
        unmerged(closed.with_name("absent.parquet"), [str(NAMES[0])], tmp_path)


def test_damage_is_found(store: Store, closed: Path, tmp_path: Path) -> None:
    """A flipped bit, a truncated file, and a file with other columns each raise a one-line error."""
    whole, column = closed.read_bytes(), pq.read_metadata(closed).row_group(0).column(1)
    at = column.data_page_offset + column.total_compressed_size // 2
    other = (store.archive_folder("finnhub", DATE) / NAMES[0].archived).read_bytes()
    for bad in (whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], whole[:-20], b"", other):
        closed.write_bytes(bad)
        with pytest.raises(CorruptionError, match=closed.name) as caught:
            unmerged(closed, list(map(str, NAMES)), tmp_path / "out")
        assert "\n" not in str(caught.value)


def test_the_day_of_a_batch(store: Store, closed: Path, archived: Callable[[BatchName], Path]) -> None:
    """The day's file is returned only for exactly the batches it was made of, and only while it exists."""
    path = store.manifests()[0]
    manifest = read(path, Manifest)
    assert Catalog(store).day_of_batch(path, manifest) == closed
    assert Catalog(store).day_of_batch(path, replace(manifest, rows=1)) is None
    late = archived(BatchName(NAMES[0].session, 0, 9))
    assert Catalog(store).day_of_batch(late, read(late, Manifest)) is None
    merge(store, "finnhub", DATE)
    now = Catalog(store).day_of_batch(late, read(late, Manifest))
    assert now is not None
    assert now != closed
    now.unlink()
    assert Catalog(store).day_of_batch(path, manifest) is None
    store.day_record("finnhub", DATE).write_bytes(b"{")
    with pytest.raises(CorruptionError, match=r"\.day\.json"):
        Catalog(store).day_of_batch(path, manifest)


def test_closed_and_removed(store: Store, closed: Path, archived: Callable[[BatchName], Path]) -> None:
    """A day is closed if all its batches are in a file that is here or was removed with a record."""
    assert not Catalog(store).is_closed("finnhub", "2026-11-25")
    assert Catalog(store).is_closed("finnhub", DATE)
    record = store.day_record("finnhub", DATE)
    assert removed(record) is None
    closed.unlink()
    assert not Catalog(store).is_closed("finnhub", DATE)
    gone(record, closed.name)
    assert Catalog(store).is_closed("finnhub", DATE)
    assert removed(record) is not None
    archived(BatchName(NAMES[0].session, 0, 9))
    assert not Catalog(store).is_closed("finnhub", DATE)


def test_removed_of_a_batch(store: Store, closed: Path) -> None:
    """A removal's record is read from beside the manifest; a flipped bit is an error."""
    path = store.manifests()[0]
    assert removed(path) is None
    gone(path, "x.parquet")
    assert removed_record(path).name == NAMES[0].removed
    found = removed(path)
    assert found is not None
    assert (found.file, found.held_in) == ("x.parquet", ("there",))
    content = removed_record(path).read_bytes()
    removed_record(path).write_bytes(content.replace(b"merged", b"merge\x00"))
    with pytest.raises(CorruptionError, match="removed"):
        removed(path)
