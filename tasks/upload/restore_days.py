"""How do merged days come back from the bucket, each beside its record?

Here a feed and a date have one file. Of several in the bucket (two machines' days, of other batches) the one of most
batches is taken; one that stands here gives way only to one that holds all its batches.
"""

from collections.abc import Collection, Iterable

from tasks.days import day_record, removed_record
from tasks.manifest import Day, read
from tasks.store import Store, write_whole
from tasks.upload.fetch import bring
from tasks.upload.object_store import ObjectStore
from tasks.upload.remote_days import RemoteDay, is_within


def place_days(store: Store, objects: ObjectStore, days: Iterable[RemoteDay], listed: Collection[str]) -> list[int]:
    """Bring these days here, as far as they are not; gives the bytes of each that came.

    `listed` are the keys that the bucket holds. Killed, it is run again. Raises as `fetch.bring`.
    """
    came = [_place(store, objects, each) for each in days if each.file_key in listed]
    return [size for size in came if size]


def _place(store: Store, objects: ObjectStore, remote: RemoteDay) -> int:
    day, record = remote.day, day_record(store, remote.day.feed, remote.day.date)
    with store.locked(f"day-{day.feed}-{day.date}"):
        here = read(record, Day) if record.exists() else None
        if here is not None and here != day and not (is_within(here, day) and here.file != day.file):
            return 0
        file = record.with_name(str(day.file))
        came = bring(objects, remote.file_key, file, day.sha256)
        if here != day:
            write_whole(record, remote.content)
            came += len(remote.content)
        removed_record(record).unlink(missing_ok=True)
        for old in file.parent.glob(f"{day.date}-*.parquet"):
            if old != file:
                old.unlink()
    return came
