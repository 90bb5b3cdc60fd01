"""Bring one batch or one closed day back from the bucket, verified, and never over something that differs.

In the data folder a feed and a date have one closed day. Of several in the bucket (two machines' days, of other
batches) the one of most batches is taken; one that is here is replaced only by one that has all its batches.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tasks.archive.catalog import Catalog
from tasks.archive.same_rows import Source, check_same_days, check_same_rows
from tasks.errors import ConflictError, CorruptionError
from tasks.records.manifest import Day, Manifest, Removed, decode, encode, quarantined_files, read
from tasks.records.names import (
    SESSION_RECORD,
    BatchName,
    Keys,
    feed_and_date,
    is_session_name,
    parquet,
    removed_record,
)
from tasks.storage.store import Store, unfinished, write_whole
from tasks.upload.download import RemoteDay, check_same, download, is_within, read_record, write_record
from tasks.upload.object_store import ObjectStore


class MissingRowsError(CorruptionError):
    """A batch's file is not in the bucket, and no closed day that is here has its rows."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """From which bucket into which data folder; `listed` are the keys of all objects under the bucket's prefix.

    `missing_rejects` collects the names of the quarantine files that the bucket does not have.
    """

    store: Store
    objects: ObjectStore
    listed: Collection[str]
    now_ns: Callable[[], int]
    missing_rejects: list[str] = field(default_factory=list)

    @property
    def keys(self) -> Keys:
        """Return the keys of the bucket's objects."""
        return self.objects.bucket.keys

    def sessions(self) -> list[str]:
        """Return the sessions whose records are in the bucket, oldest first."""
        names = {key.split("/")[-2] for key in self.listed if key.endswith(f"/{SESSION_RECORD}")}
        return sorted(name for name in names if is_session_name(name) and self.keys.of_session(name) in self.listed)


def batch_record(store: Store, objects: ObjectStore, key: str) -> Path:
    """Return where the manifest with that key belongs. Raises CorruptionError for a key that is none of ours."""
    try:
        feed, date, name = objects.bucket.keys.batch_at(key)
    except ValueError as error:
        raise CorruptionError(f"{objects.bucket}: {key} is no batch's manifest ({error}); remove it there") from error
    return store.archive_folder(feed, date) / name.manifest


def restore_batch(transfer: Transfer, key: str, days: Collection[RemoteDay], known: Manifest | None) -> int:
    """Restore a batch; returns the bytes that came, 0 if all of it was here. The manifest is written last.

    `known` is its manifest if only a closed day has it. Raises MissingRowsError, CorruptionError and ConflictError.
    """
    path = batch_record(transfer.store, transfer.objects, key)
    with transfer.store.locked(BatchName.parse(path.name)):
        content = encode(known) if known is not None else read_record(transfer.objects, key)
        check_same(transfer.objects, key, path, content)
        manifest = decode(content, Manifest, f"{transfer.objects.bucket}: {key}")
        came = restore_rows(transfer, path, manifest, lambda: days)
        came += _restore_quarantine(transfer, manifest)
        return came + write_record(transfer.objects, key, path, content)


def restore_rows(
    transfer: Transfer, record: Path, manifest: Manifest, days: Callable[[], Collection[RemoteDay]]
) -> int:  # fmt: skip
    """Download the file of a batch, or record that its closed day has its rows; returns the bytes that came.

    `record` is where its manifest belongs. `days` gives the closed days in the bucket, and is called if the batch has
    no object of its own. Raises MissingRowsError if no closed day that is then here has its rows.
    """
    if manifest.file is None:
        return 0
    path, key = record.with_name(manifest.file), transfer.keys.of_batch(*feed_and_date(record.parent), manifest.file)
    if key not in transfer.listed and not path.exists():
        return _record_as_merged(transfer, record, manifest, days())
    came = download(transfer.objects, key, path, manifest.sha256, manifest.bytes)
    removed_record(record).unlink(missing_ok=True)
    return came


def _record_as_merged(transfer: Transfer, record: Path, manifest: Manifest, days: Collection[RemoteDay]) -> int:
    """Write the record that the rows of a batch are in its closed day; returns its bytes, 0 if it was here."""
    holding = [f"{transfer.objects.bucket}: {each.file_key}" for each in days if each.holds(manifest)]
    if Catalog(transfer.store).day_of_batch(record, manifest) is None:
        where = "no merged day holds it" if not holding else (
            f"it is in another machine's day than the one here ({holding[0]}): read it there by its batch column, "
            "and give each machine a TAPE_S3_PREFIX of its own"
        )  # fmt: skip
        raise MissingRowsError(f"{transfer.objects.bucket}: the file of {manifest.batch} is missing, and {where}")
    path = removed_record(record)
    if path.exists():
        return 0
    said = Removed(
        batch=manifest.batch, file=str(manifest.file), removed_ns=transfer.now_ns(), why="merged",
        held_in=tuple(holding),
    )  # fmt: skip
    content = encode(said)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    return len(content)


def _restore_quarantine(transfer: Transfer, manifest: Manifest) -> int:
    came = 0
    for name, sha256 in quarantined_files(manifest).items():
        key, path = transfer.keys.of_quarantine(name), transfer.store.quarantine / name
        if key in transfer.listed or path.exists():
            came += download(transfer.objects, key, path, sha256)
        else:
            transfer.missing_rejects.append(name)
    return came


def restore_days(
    store: Store, objects: ObjectStore, days: Iterable[RemoteDay], listed: Collection[str],
    wrong: list[CorruptionError | ConflictError] | None = None,
) -> list[int]:  # fmt: skip
    """Restore these closed days unless they are here; returns the bytes of each that came.

    `listed` are the keys in the bucket. What is wrong with a day is appended to `wrong`, or raised without that list.
    """
    came = []
    for each in days:
        if each.file_key in listed:
            try:
                came.append(_restore_day(store, objects, each))
            except (CorruptionError, ConflictError) as error:
                if wrong is None:
                    raise
                wrong.append(error)
    return [size for size in came if size]


def _restore_day(store: Store, objects: ObjectStore, remote: RemoteDay) -> int:
    day, record = remote.day, store.day_record(remote.day.feed, remote.day.date)
    with store.locked(f"day-{day.feed}-{day.date}"):
        here = read(record, Day) if record.exists() else None
        if here is not None and here != day and not (is_within(here, day) and here.file != day.file):
            return 0
        file = record.with_name(str(day.file))
        came = _download_checked(store, objects, remote, file, here)
        if here != day:
            write_whole(record, remote.content)
            came += len(remote.content)
        removed_record(record).unlink(missing_ok=True)
        for old in file.parent.glob(parquet(f"{day.date}-*")):
            if old != file:
                old.unlink()
    return came


def _download_checked(store: Store, objects: ObjectStore, remote: RemoteDay, file: Path, here: Day | None) -> int:
    """Download a day's file, and keep it only if it has the rows that are here."""
    was_here = file.exists()
    came = download(objects, remote.file_key, file, remote.day.sha256, remote.day.bytes)
    try:
        _check_rows(store, file, remote.day, here)
    except CorruptionError as error:
        if not was_here:
            file.unlink()
        raise ConflictError(
            f"{objects.bucket}: {remote.file_key} does not hold the rows that are here ({error}); nothing was "
            "replaced: run `tape verify`, and find out who can write to the bucket"
        ) from error
    return came


def _check_rows(store: Store, file: Path, day: Day, here: Day | None) -> None:
    """Raise CorruptionError if the day's file has other rows of a batch than those that are here.

    Its record cannot vouch for it: anyone who can write one object to a bucket can write two that match.
    """
    folder, scratch = store.archive_folder(day.feed, day.date), unfinished(file).with_suffix(".rows")
    own = [Source(each.batch, folder / each.file) for each in day.batches if each.file and _is_here(folder, each)]
    if own:
        check_same_rows(file, own, scratch)
    old = None if here is None or here.file is None else file.with_name(here.file)
    if here is not None and old is not None and old != file and old.exists():
        check_same_days(file, old, [each.batch for each in here.batches if each.rows], scratch)


def _is_here(folder: Path, manifest: Manifest) -> bool:
    """Return whether that very batch has its own file here."""
    record = folder / BatchName.parse(manifest.batch).manifest
    return (folder / str(manifest.file)).exists() and record.exists() and read(record, Manifest) == manifest
