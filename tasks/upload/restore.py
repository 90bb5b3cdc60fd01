"""How do a day's files come back from the bucket into an archive: verified, and never over something that differs?"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tasks.batch import BatchName
from tasks.errors import ConflictError, CorruptionError, TerminalError
from tasks.manifest import Manifest, read
from tasks.store import Store, publish, unfinished
from tasks.upload.bucket import Bucket
from tasks.upload.object_store import ObjectStore
from tasks.upload.send import sha256_of

_MANIFEST = ".manifest.json"


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back: batches and their bytes that were fetched, and batches that stood here already, equal."""

    fetched: int
    bytes: int
    equal: int


def restore(store: Store, bucket: Bucket, date: str) -> Restored:
    """Bring that day's batches (YYYY-MM-DD) of the bucket into the archive: each file, then its manifest.

    Killed, it is run again and takes up where it was. Raises TransientError; TerminalError where the bucket holds
    nothing of that day; CorruptionError where an object is not what its manifest says; ConflictError where other
    bytes stand here already, before anything of that batch is written.
    """
    objects = ObjectStore(bucket)
    keys = [key for key in manifest_keys(objects) if PurePosixPath(key).parent.name == f"date={date}"]
    if not keys:
        raise TerminalError(f"{bucket}: holds no batch of {date} under {bucket.prefix}/; `tape ls` shows the days")
    fetched = equal = fetched_bytes = 0
    for key in keys:
        came = _restore_batch(store, objects, key)
        fetched, equal, fetched_bytes = fetched + (came > 0), equal + (came == 0), fetched_bytes + came
    return Restored(fetched, fetched_bytes, equal)


def mirror(cache: Store, bucket: Bucket, wanted: Callable[[str, Manifest | None], bool]) -> list[Path]:
    """Bring what is wanted of the bucket into a cache, which is laid out as a data folder; gives those manifests.

    `wanted` is asked of each day (YYYY-MM-DD, None) before its manifests are fetched, then of each manifest before
    its file is. What the cache holds is not fetched again: an object never changes. Raises as `restore`.
    """
    objects, found = ObjectStore(bucket), []
    for key in manifest_keys(objects):
        date = PurePosixPath(key).parent.name.removeprefix("date=")
        if wanted(date, None):
            path = _place(cache, objects, key)
            if not path.exists():
                # A cache's manifest may stand before its file: it says what the bucket holds, not what we do.
                _fetch(objects, key, path, None)
            manifest = _manifest(path, objects, key)
            if wanted(date, manifest):
                _fetch_file(objects, key, path, manifest)
                found.append(path)
    return found


def manifest_keys(objects: ObjectStore) -> Iterable[str]:
    """The manifests of whole batches under the prefix, in the order of their names: a manifest goes up last."""
    return sorted(key for key in objects.keys(f"{objects.bucket.prefix}/feed=") if key.endswith(_MANIFEST))


def _restore_batch(store: Store, objects: ObjectStore, key: str) -> int:
    """The bytes that had to be fetched, 0 where all stands here already."""
    path = _place(store, objects, key)
    with store.locked(BatchName.parse(path.name)):
        arriving = path.with_name(f"{path.name}.arriving")
        try:
            _fetch(objects, key, arriving, None)
            _refuse_other(arriving, path, objects, key)
            manifest = _manifest(arriving, objects, key)
            came = _fetch_file(objects, key, path, manifest)
            if not path.exists():
                came += arriving.stat().st_size
                unfinished(path).write_bytes(arriving.read_bytes())
                publish(path)
        finally:
            arriving.unlink(missing_ok=True)
    return came


def _manifest(path: Path, objects: ObjectStore, key: str) -> Manifest:
    """The manifest that came from that key."""
    try:
        return read(path, Manifest)
    except CorruptionError as error:
        raise CorruptionError(f"{objects.bucket}: {key} is no manifest as it was written: {error}") from error


def _place(store: Store, objects: ObjectStore, key: str) -> Path:
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


def _fetch_file(objects: ObjectStore, manifest_key: str, manifest_path: Path, manifest: Manifest) -> int:
    """The archived file beside a manifest; gives the bytes that came, 0 where it stands here already."""
    if manifest.file is None:
        return 0
    if PurePosixPath(manifest.file).name != manifest.file:
        raise CorruptionError(f"{objects.bucket}: {manifest_key} names a file of another folder; nothing was fetched")
    path = manifest_path.with_name(manifest.file)
    key = str(PurePosixPath(manifest_key).with_name(manifest.file))
    if path.exists():
        if path.stat().st_size == manifest.bytes and sha256_of(path) == manifest.sha256:
            return 0
        raise _conflict(path, objects, key)
    _fetch(objects, key, path, manifest.sha256)
    return manifest.bytes


def _fetch(objects: ObjectStore, key: str, path: Path, sha256: str | None) -> None:
    """Download an object to `path`, which does not exist: whole and of that SHA-256, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    try:
        with temporary.open("wb") as file:
            actual = objects.read(key, file)
        if sha256 not in (None, actual):
            raise CorruptionError(f"{objects.bucket}: {key} has SHA-256 {actual}, its manifest says {sha256}; "
                                  "nothing was kept")  # fmt: skip
        publish(path)
    finally:
        temporary.unlink(missing_ok=True)


def _refuse_other(arrived: Path, path: Path, objects: ObjectStore, key: str) -> None:
    if path.exists() and path.read_bytes() != arrived.read_bytes():
        raise _conflict(path, objects, key)


def _conflict(path: Path, objects: ObjectStore, key: str) -> ConflictError:
    return ConflictError(
        f"{path}: differs from {key} in {objects.bucket}; nothing was overwritten: compare the two and move one away"
    )
