"""How is what a query wants of the bucket brought into a cache, and no more than that?"""

from collections.abc import Callable, Collection
from pathlib import Path

from tasks.manifest import Manifest, decode, read
from tasks.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.fetch import bring, content_of, put_here
from tasks.upload.object_store import ObjectStore
from tasks.upload.remote_days import RemoteDay, keys_of_days, remote_days
from tasks.upload.restore import MANIFEST
from tasks.upload.restore_batch import beside, place_of, say_merged
from tasks.upload.restore_days import place_days


def mirror(
    cache: Store, bucket: Bucket, wanted: Callable[[str, Manifest | None], bool], now_ns: Callable[[], int]
) -> list[Path]:
    """Bring what is wanted of the bucket into a cache, which is laid out as a data folder; gives those manifests.

    `wanted` is asked of each day (YYYY-MM-DD, None) before its manifests are fetched, then of each manifest before
    its file is. A batch whose object is gone comes as its day's file. What the cache holds is not fetched again: an
    object never changes. Raises as `restore`.
    """
    objects, found = ObjectStore(bucket), []
    keys = objects.keys(f"{bucket.prefix}/feed=")
    days: dict[str, list[RemoteDay]] = {}
    for key in sorted(each for each in keys if each.endswith(MANIFEST)):
        path = place_of(cache, objects, key)
        date = path.parent.name.removeprefix("date=")
        if not wanted(date, None):
            continue
        if not path.exists():
            # A cache's manifest may stand before its file: it says what the bucket holds, not what we do.
            content = content_of(objects, key)
            decode(content, Manifest, f"{bucket}: {key}")
            put_here(objects, key, path, content)
        manifest = read(path, Manifest)
        if wanted(date, manifest):
            found.append(path)
            _mirror_file(cache, objects, keys, days, key, path, manifest, now_ns)
    return found


def _mirror_file(
    cache: Store, objects: ObjectStore, keys: Collection[str], days: dict[str, list[RemoteDay]], key: str, path: Path,
    manifest: Manifest, now_ns: Callable[[], int],
) -> None:  # fmt: skip
    if manifest.file is None:
        return
    file, file_key = path.with_name(manifest.file), beside(objects, key, manifest.file)
    if file_key in keys or file.exists():
        bring(objects, file_key, file, manifest.sha256)
        return
    date = manifest.seal.date
    if date not in days:
        days.clear()  # Dates come in order, and each day's record is long.
        listed = keys_of_days(objects)
        days[date] = remote_days(objects, listed, date)
        place_days(cache, objects, days[date], listed)
    say_merged(cache, objects, days[date], path, manifest, now_ns)
