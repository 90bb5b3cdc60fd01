"""What proves a copy, when ages start to count, and the order of the steps of a removal follow the rule."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from calls import recorded

from tasks.errors import CorruptionError
from tasks.records.names import BatchName, removed_record
from tasks.retain.retain import retain
from tasks.retain.rule import Remote, Retained, Rule
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.uploads import upload_batch

from .conftest import DATE, NAMES, SESSION, close, files, send

DAY_NS = 86_400 * 10**9
LATE = BatchName(SESSION, 0, 3)
MERGED, AGE = Rule(batches_for_ns=7 * DAY_NS), Rule(local_for_ns=7 * DAY_NS)


def run(store: Store, rule: Rule, remote: Remote | None = None, after_ns: int = 8 * DAY_NS) -> Retained:
    """Apply the rule this long after everything was written."""
    return retain(store, rule, lambda: time.time_ns() + after_ns, lambda: 1 << 40, remote)


def here(store: Store) -> set[str]:
    return {path.name for path in store.root.rglob("*.parquet")}


def test_an_earlier_merge_in_the_bucket_proves_nothing_for_a_late_batch(
    store: Store, closed: Path, archived: Callable[..., Path], bucket: Bucket, remote: Remote, object_store: Any
) -> None:
    """A batch that arrived after the day's upload stays, by either rule, until the new day is in the bucket."""
    send(store, bucket, DATE)
    archived(LATE)
    again = close(store)
    upload_batch(store, LATE, bucket, lambda: 1)
    # Its own object is lost: then only the day could hold its rows there.
    key = f"trades/feed=finnhub/date={DATE}/{LATE.archived}"
    object_store.server.client().delete_object(Bucket=bucket.name, Key=key)
    assert run(store, MERGED, remote).removed == ()
    found = run(store, AGE, remote)
    assert {Path(each.file).name for each in found.removed} == {name.archived for name in NAMES}
    assert here(store) == {LATE.archived, again.name}
    send(store, bucket, DATE)
    run(store, AGE, remote)
    assert here(store) == set()


def test_a_batch_is_kept_so_long_from_the_closing_on(store: Store, closed: Path) -> None:
    """A batch's age counts from when its day was closed, however old its file is."""
    old_ns = time.time_ns() - 300 * DAY_NS
    for path in store.root.rglob("*.parquet"):
        os.utime(path, ns=(old_ns, old_ns))
    assert run(store, MERGED, after_ns=0) == Retained()
    record, week_ns = store.day_record("finnhub", DATE), time.time_ns() - 7 * DAY_NS
    os.utime(record, ns=(week_ns, week_ns))
    assert len(run(store, MERGED, after_ns=0).removed) == 3


def test_for_space_one_file_goes_where_one_is_enough(
    store: Store, closed: Path, archived: Callable[..., Path], bucket: Bucket, remote: Remote
) -> None:
    """Removal for space stops once enough is free, even within a day; no later day is touched."""
    other = BatchName("20261125T143000Z-9f3c01ab", 0, 0)
    archived(other, date="2026-11-25")
    send(store, bucket, DATE)
    before, size = here(store), (store.archive_folder("finnhub", DATE) / NAMES[0].archived).stat().st_size
    whole = sum(path.stat().st_size for path in store.root.rglob("*.parquet"))

    def free_bytes() -> int:
        return whole - sum(path.stat().st_size for path in store.root.rglob("*.parquet"))

    found = retain(store, Rule(free_bytes=size), time.time_ns, free_bytes, remote)
    assert [Path(each.file).name for each in found.removed] == [NAMES[0].archived]
    assert here(store) == before - {NAMES[0].archived}
    assert found.bytes == size


def test_a_swapped_day_file_is_not_merged_onward(store: Store, closed: Path, archived: Callable[..., Path]) -> None:
    """A well-formed but different day's file of the same batches is named, and no new day is made from it."""
    assert len(run(store, MERGED).removed) == 3
    archived(LATE)
    file = pq.ParquetFile(closed)
    table, facts = file.read(), file.metadata.metadata
    place = table.schema.get_field_index("price")
    price = pc.replace_substring(table["price"].cast(pa.string()), "1", "2").cast(table.schema.field(place).type)
    swapped = table.set_column(place, table.schema.field(place), price)
    assert swapped != table
    pq.write_table(swapped.replace_schema_metadata(facts), closed)
    before = files(store)
    with pytest.raises(CorruptionError, match=closed.name):
        close(store)
    assert files(store) == before


def test_a_removal_is_recorded_before_it_is_made(store: Store, closed: Path, bucket: Bucket, remote: Remote) -> None:
    """A removal's record is synced first, then the bucket's object is removed, then the local file."""
    send(store, bucket, DATE)
    asked: dict[str, int] = {}

    def remove(keys: Sequence[str]) -> None:
        asked.update({key.rsplit("/", 1)[1]: len(calls.all) for key in keys})
        remote.remove(keys)

    with recorded() as calls:
        run(store, MERGED, replace(remote, remove=remove))
    folder = store.archive_folder("finnhub", DATE)
    for name in NAMES:
        said = calls.place("rename", removed_record(folder / name.manifest))
        synced, gone = calls.place("sync", folder, said), calls.place("unlink", folder / name.archived)
        assert said < synced < asked[name.archived] <= gone < calls.place("sync", folder, gone)
    assert calls.at_risk() == []
