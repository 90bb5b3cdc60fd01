"""Any fault in a day's merged file is found and names the file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.merge.day import merge
from tasks.records.manifest import Day, encode, read
from tasks.storage.store import Store
from tasks.verify.laws import verify

Recorded = Callable[..., Store]


@pytest.fixture
def closed(recorded: Recorded) -> tuple[Store, Path, Path]:
    """A closed day: the data folder, the day's file and its record."""
    store = recorded()
    day = merge(store, "finnhub", "2026-11-24")
    assert day is not None
    assert day.file is not None
    folder = store.day_folder("finnhub", "2026-11-24")
    return store, folder / day.file, folder / "_2026-11-24.day.json"


def found(store: Store) -> set[tuple[str, str]]:
    return {(each.law, each.file) for each in verify(store).broken}


def test_a_closed_day_holds(closed: tuple[Store, Path, Path]) -> None:
    """A merged day breaks no law."""
    assert found(closed[0]) == set()


@pytest.mark.slow
@pytest.mark.parametrize("which", [1, 2], ids=["file", "record"])
def test_any_flipped_bit_is_found(closed: tuple[Store, Path, Path], which: int) -> None:
    """A bit flipped anywhere in the day's file or record is reported for that file."""
    path = closed[which]
    assert isinstance(path, Path)
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 15)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        laws = found(closed[0])
        assert {("sha256", str(path))} <= laws or {("readable", str(path))} <= laws


def test_a_day_without_its_file_and_a_file_without_its_day(closed: tuple[Store, Path, Path]) -> None:
    """A missing file is named, and so is one that no record lists."""
    store, file, record = closed
    moved = file.with_name("2026-11-24-000000000000.parquet")
    file.rename(moved)
    assert found(store) == {("present", str(file)), ("day", str(moved))}
    record.unlink()
    assert found(store) == {("day", str(moved))}


def test_a_day_made_of_other_batches(closed: tuple[Store, Path, Path]) -> None:
    """A day's record is named if its batches differ from the archive's, or their counts do not add up."""
    store, _, record = closed
    day = read(record, Day)
    record.write_bytes(encode(replace(day, batches=(replace(day.batches[0], bytes=1), *day.batches[1:]))))
    assert found(store) == {("day", str(record))}
    record.write_bytes(encode(replace(day, rows=day.rows + 1)))
    assert found(store) == {("counts", str(record))}
    file = str(day.file).replace("2026-11-24", "2026-11-23")
    record.with_name(str(day.file)).rename(record.with_name(file))
    record.write_bytes(encode(replace(day, date="2026-11-23", file=file)))
    assert found(store) == {("place", str(record))}
