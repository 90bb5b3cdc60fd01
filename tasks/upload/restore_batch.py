"""How does one batch come back from the bucket: its file, or word that its day holds its rows, and its quarantine?"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tasks.archive.catalog import Catalog
from tasks.errors import CorruptionError
from tasks.records.manifest import Manifest, Removed, decode, encode, quarantined_files
from tasks.records.names import BatchName, removed_record
from tasks.storage.store import Store, write_whole
from tasks.upload.fetch import bring, content_of, put_here, refuse_other
from tasks.upload.object_store import ObjectStore
from tasks.upload.remote_days import RemoteDay


class Gone(CorruptionError):
    """A batch's file is not in the bucket, and no merged day that is here holds its rows."""


@dataclass(slots=True)
class Holdings:
    """What the bucket has under the prefix, and its merged days of the date at hand.

    `without` takes the quarantine files that it lacks.
    """

    objects: ObjectStore
    keys: Collection[str]
    days: list[RemoteDay] = field(default_factory=list)
    without: list[str] = field(default_factory=list)


def restore_batch(store: Store, held: Holdings, key: str, told: Manifest | None, now_ns: Callable[[], int]) -> int:
    """The bytes that had to be fetched, 0 where all stands here already. The manifest is written last."""
    path = place_of(store, held.objects, key)
    with store.locked(BatchName.parse(path.name)):
        content = encode(told) if told is not None else content_of(held.objects, key)
        refuse_other(held.objects, key, path, content)
        manifest = decode(content, Manifest, f"{held.objects.bucket}: {key}")
        came = _restore_file(store, held, key, path, manifest, now_ns)
        came += _restore_quarantine(store, held, manifest)
        return came + put_here(held.objects, key, path, content)


def _restore_file(
    store: Store, held: Holdings, key: str, path: Path, manifest: Manifest, now_ns: Callable[[], int]
) -> int:
    """The archived file beside a manifest, or the word that its day's file holds its rows."""
    if manifest.file is None:
        return 0
    file_key = beside(key, manifest.file)
    if file_key in held.keys or path.with_name(manifest.file).exists():
        came = bring(held.objects, file_key, path.with_name(manifest.file), manifest.sha256, manifest.bytes)
        removed_record(path).unlink(missing_ok=True)
        return came
    return say_merged(store, held.objects, held.days, path, manifest, now_ns)


def say_merged(
    store: Store, objects: ObjectStore, days: Collection[RemoteDay], path: Path, manifest: Manifest,
    now_ns: Callable[[], int],
) -> int:  # fmt: skip
    """Write the record that a batch's rows are in its day's file; gives its bytes, 0 where it stands.

    Raises CorruptionError where no day that is here holds them.
    """
    if Catalog(store).day_of_batch(path, manifest) is None:
        other = next((each for each in days if each.holds(manifest)), None)
        said = "no merged day holds it" if other is None else (
            f"it is in {other.file_key}, another machine's day than the one here: read it there by its batch column, "
            "and give each machine a TAPE_S3_PREFIX of its own"
        )  # fmt: skip
        raise Gone(f"{objects.bucket}: the file of {manifest.batch} is missing, and {said}")
    record = removed_record(path)
    if record.exists():
        return 0
    held_in = tuple(f"{objects.bucket}: {each.file_key}" for each in days if each.holds(manifest))
    content = encode(
        Removed(batch=manifest.batch, file=str(manifest.file), removed_ns=now_ns(), why="merged", held_in=held_in)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(record, content)
    return len(content)


def _restore_quarantine(store: Store, held: Holdings, manifest: Manifest) -> int:
    came = 0
    for name, sha256 in quarantined_files(manifest).items():
        key = held.objects.bucket.keys.of_quarantine(name)
        if key in held.keys or (store.quarantine / name).exists():
            came += bring(held.objects, key, store.quarantine / name, sha256)
        else:
            held.without.append(name)
    return came


def beside(manifest_key: str, file: str) -> str:
    """The key of a file beside its manifest."""
    return str(PurePosixPath(manifest_key).with_name(file))


def place_of(store: Store, objects: ObjectStore, key: str) -> Path:
    """Where an object belongs in the archive. Raises CorruptionError for a key that is none of ours."""
    try:
        feed, date, name = objects.bucket.keys.batch_at(key)
    except ValueError as error:
        raise CorruptionError(f"{objects.bucket}: {key} is no batch's manifest ({error}); remove it there") from error
    return store.archive_folder(feed, date) / name.manifest
