"""How does an archive come back from the bucket: verified, and never over something that differs?

With a batch come its quarantine files, with a day its merged file, and with a session of which every batch is here its
record: what is restored into an empty folder can be verified like what was recorded there.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tasks.batch import BatchName
from tasks.days import day_of_batch, removed_record
from tasks.errors import CorruptionError, TerminalError
from tasks.manifest import Manifest, Removed, decode, encode, quarantined_files
from tasks.store import Store, write_whole
from tasks.upload.bucket import Bucket
from tasks.upload.fetch import bring, content_of, put_here, refuse_other
from tasks.upload.object_store import ObjectStore
from tasks.upload.once import quarantine_key
from tasks.upload.remote_days import RemoteDay, keys_of_days, remote_days
from tasks.upload.restore_days import place_days
from tasks.upload.restore_sessions import place_sessions

MANIFEST = ".manifest.json"


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back: batches that were fetched, and those that stood here already, equal; days; sessions' records.

    `bytes` are all that were fetched. `notes` say what the bucket could not give.
    """

    fetched: int
    bytes: int
    equal: int
    days: int = 0
    sessions: int = 0
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Holdings:
    """What lies in the bucket: the keys under the prefix, and the merged days."""

    objects: ObjectStore
    keys: Collection[str]
    days: list[RemoteDay]
    without: list[str] = field(default_factory=list)


def restore(store: Store, bucket: Bucket, date: str | None, now_ns: Callable[[], int]) -> Restored:
    """Bring that day (YYYY-MM-DD), or everything, of the bucket into the data folder.

    Killed, it is run again and takes up where it was. Raises TransientError; TerminalError where the bucket holds
    nothing of that day; CorruptionError where an object is not what its record says, or a batch's object is gone and
    no day holds it; ConflictError where other bytes stand here already, before anything of that batch is written.
    """
    objects = ObjectStore(bucket)
    day_keys = keys_of_days(objects)
    held = _Holdings(objects, objects.keys(f"{bucket.prefix}/"), remote_days(objects, day_keys, date))
    batches = dict(_batches(held, date))
    if not batches:
        raise TerminalError(
            f"{bucket}: holds no batch of {date or 'any day'} under {bucket.prefix}/; `tape ls` shows the days"
        )
    days, day_bytes = place_days(store, objects, held.days, day_keys)
    came = [_restore_batch(store, held, key, manifest, now_ns) for key, manifest in batches.items()]
    sessions, session_notes = place_sessions(store, objects, held.keys, _sessions(batches, date), date)
    return Restored(
        fetched=sum(size > 0 for size in came), bytes=sum(came) + sum(sessions) + day_bytes,
        equal=sum(size == 0 for size in came), days=days, sessions=len(sessions), notes=(*_notes(held), *session_notes),
    )  # fmt: skip


def _notes(held: _Holdings) -> Iterator[str]:
    if held.without:
        yield (
            f"{len(held.without):,} files in quarantine are not in the bucket, such as {held.without[0]}: "
            "run `tape archive` where they were recorded"
        )


def _sessions(batches: Collection[str], date: str | None) -> set[str] | None:
    """The sessions whose records are wanted, None for all."""
    return None if date is None else {BatchName.parse(PurePosixPath(key).name).session for key in batches}


def _batches(held: _Holdings, date: str | None) -> Iterator[tuple[str, Manifest | None]]:
    """The key of each whole batch's manifest, in order; with what a day says of it, where the bucket lacks it."""
    prefix = f"{held.objects.bucket.prefix}/feed="
    names = {key for key in held.keys if key.startswith(prefix) and key.endswith(MANIFEST)}
    told = {_key_of(held, each): each for day in held.days for each in day.day.batches}
    for key in sorted(names | told.keys()):
        if date in (None, PurePosixPath(key).parent.name.removeprefix("date=")):
            yield key, None if key in names else told[key]


def _key_of(held: _Holdings, manifest: Manifest) -> str:
    folder = f"{held.objects.bucket.prefix}/feed={manifest.seal.feed}/date={manifest.seal.date}"
    return f"{folder}/{BatchName.parse(manifest.batch).manifest}"


def _restore_batch(store: Store, held: _Holdings, key: str, told: Manifest | None, now_ns: Callable[[], int]) -> int:
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
    store: Store, held: _Holdings, key: str, path: Path, manifest: Manifest, now_ns: Callable[[], int]
) -> int:
    """The archived file beside a manifest, or the word that its day's file holds its rows."""
    if manifest.file is None:
        return 0
    file_key = beside(held.objects, key, manifest.file)
    if file_key in held.keys or path.with_name(manifest.file).exists():
        came = bring(held.objects, file_key, path.with_name(manifest.file), manifest.sha256)
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
    if day_of_batch(store, path, manifest) is None:
        other = next((each for each in days if each.holds(manifest)), None)
        said = "no merged day holds it" if other is None else (
            f"{other.key} holds it beside another day that is here: restore into another data folder"
        )  # fmt: skip
        raise CorruptionError(f"{objects.bucket}: the file of {manifest.batch} is missing, and {said}")
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


def _restore_quarantine(store: Store, held: _Holdings, manifest: Manifest) -> int:
    came = 0
    for name, sha256 in quarantined_files(manifest).items():
        if PurePosixPath(name).name != name:
            raise CorruptionError(f"{held.objects.bucket}: the manifest of {manifest.batch} names {name[:80]!r}")
        key = quarantine_key(held.objects.bucket, name)
        if key in held.keys or (store.quarantine / name).exists():
            came += bring(held.objects, key, store.quarantine / name, sha256)
        else:
            held.without.append(name)
    return came


def beside(objects: ObjectStore, manifest_key: str, file: str) -> str:
    """The key of a file beside its manifest. Raises CorruptionError for one of another folder."""
    if PurePosixPath(file).name != file:
        raise CorruptionError(f"{objects.bucket}: {manifest_key} names a file of another folder; nothing was fetched")
    return str(PurePosixPath(manifest_key).with_name(file))


def place_of(store: Store, objects: ObjectStore, key: str) -> Path:
    """Where an object belongs in the archive. Raises CorruptionError for a key that is none of ours."""
    below = PurePosixPath(key.removeprefix(f"{objects.bucket.prefix}/"))
    try:
        feed, date = below.parts[0], below.parts[1]
        BatchName.parse(below.name)
    except (ValueError, IndexError) as error:
        raise CorruptionError(f"{objects.bucket}: {key} is no batch's manifest; `tape verify --remote`") from error
    if len(below.parts) != 3 or not feed.startswith("feed=") or not date.startswith("date="):
        raise CorruptionError(f"{objects.bucket}: {key} lies in no day's folder; run `tape verify --remote`")
    return store.archive / feed / date / below.name
