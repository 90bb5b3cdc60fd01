"""How do merged days come back from the bucket, each beside its record?

Here a feed and a date have one file. Of several in the bucket (two machines' days, of other batches) the one of most
batches is taken; one that stands here gives way only to one that holds all its batches.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from tasks.archive.same_rows import Source, check_same_days, check_same_rows
from tasks.errors import ConflictError, CorruptionError
from tasks.records.manifest import Day, Manifest, read
from tasks.records.names import BatchName, parquet, removed_record
from tasks.storage.store import Store, unfinished, write_whole
from tasks.upload.fetch import bring
from tasks.upload.object_store import ObjectStore
from tasks.upload.remote_days import RemoteDay, is_within


def place_days(
    store: Store, objects: ObjectStore, days: Iterable[RemoteDay], listed: Collection[str],
    wrong: list[CorruptionError | ConflictError] | None = None,
) -> list[int]:  # fmt: skip
    """Bring these days here, as far as they are not; gives the bytes of each that came.

    `listed` are the keys that the bucket holds. Where there is a list `wrong`, what is wrong with a day goes there.
    Killed, it is run again. Raises as `fetch.bring` else.
    """
    came = list[int]()
    for each in days:
        if each.file_key in listed:
            try:
                came.append(_place(store, objects, each))
            except (CorruptionError, ConflictError) as error:
                if wrong is None:
                    raise
                wrong.append(error)
    return [size for size in came if size]


def _check_rows(store: Store, file: Path, day: Day, here: Day | None) -> None:
    """Raises CorruptionError where that day's file has other rows of a batch than those which lie here.

    Its record cannot vouch for it: whoever can write one object to a bucket can write two that agree.
    """
    folder = store.archive_folder(day.feed, day.date)
    own = [Source(each.batch, folder / each.file) for each in day.batches if each.file and _is_here(folder, each)]
    if own:
        check_same_rows(file, own, unfinished(file).with_suffix(".rows"))
    old = None if here is None or here.file is None else file.with_name(here.file)
    if here is not None and old is not None and old != file and old.exists():
        with_rows = [each.batch for each in here.batches if each.rows]
        check_same_days(file, old, with_rows, unfinished(file).with_suffix(".rows"))


def _is_here(folder: Path, manifest: Manifest) -> bool:
    """Whether that very batch has its own file here."""
    record = folder / BatchName.parse(manifest.batch).manifest
    return (folder / str(manifest.file)).exists() and record.exists() and read(record, Manifest) == manifest


def _place(store: Store, objects: ObjectStore, remote: RemoteDay) -> int:
    day, record = remote.day, store.day_record(remote.day.feed, remote.day.date)
    with store.locked(f"day-{day.feed}-{day.date}"):
        here = read(record, Day) if record.exists() else None
        if here is not None and here != day and not (is_within(here, day) and here.file != day.file):
            return 0
        file = record.with_name(str(day.file))
        was_here = file.exists()
        came = bring(objects, remote.file_key, file, day.sha256, day.bytes)
        try:
            _check_rows(store, file, day, here)
        except CorruptionError as error:
            if not was_here:
                file.unlink()
            raise ConflictError(
                f"{objects.bucket}: {remote.file_key} does not hold the rows that are here ({error}); nothing was "
                "replaced: run `tape verify`, and look who can write to the bucket"
            ) from error
        if here != day:
            write_whole(record, remote.content)
            came += len(remote.content)
        removed_record(record).unlink(missing_ok=True)
        for old in file.parent.glob(parquet(f"{day.date}-*")):
            if old != file:
                old.unlink()
    return came
