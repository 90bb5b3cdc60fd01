"""How is what a query wants of the bucket brought into a cache, and no more than that?"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tasks.archive.catalog import Catalog
from tasks.records.ledger import SessionRecord
from tasks.records.manifest import Manifest, decode, read
from tasks.records.names import SESSION_RECORD, BatchName, feed_and_date
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.fetch import bring, content_of, put_here
from tasks.upload.object_store import ObjectStore
from tasks.upload.remote_days import RemoteDay, keys_of_days, remote_days
from tasks.upload.restore_batch import beside, place_of, say_merged
from tasks.upload.restore_days import place_days

_Record = TypeVar("_Record")


def mirror(
    cache: Store, bucket: Bucket, wanted: Callable[[str, Manifest | None], bool], now_ns: Callable[[], int]
) -> list[Path]:
    """Bring what is wanted of the bucket into a cache, which is laid out as a data folder; gives those manifests.

    `wanted` is asked of each day (YYYY-MM-DD, None) before its manifests are fetched, then of each manifest before
    its file is. A batch whose object is gone comes as its day's file; with the batches come the records of their
    sessions. What the cache holds is not fetched again: an object never changes. Raises as `restore`.
    """
    objects, found = ObjectStore(bucket), []
    it = _Mirror(cache, objects, objects.keys(bucket.keys.batches), now_ns)
    for key in sorted(filter(bucket.keys.holds_manifest, it.keys)):
        path = place_of(cache, objects, key)
        _, date = feed_and_date(path.parent)
        if wanted(date, None) and wanted(date, manifest := it.manifest(key, path)):
            it.bring_file(key, path, manifest)
            found.append(path)
    it.bring_sessions({BatchName.parse(path.name).session for path in found})
    return found


@dataclass(frozen=True, slots=True)
class _Mirror:
    """A cache, the bucket that it is of, and the keys that the bucket holds under its prefix."""

    cache: Store
    objects: ObjectStore
    keys: Collection[str]
    now_ns: Callable[[], int]

    def manifest(self, key: str, path: Path) -> Manifest:
        # A cache's manifest may stand before its file: it says what the bucket holds, not what we do.
        return self._record(key, path, Manifest)

    def bring_file(self, key: str, path: Path, manifest: Manifest) -> None:
        if manifest.file is None:
            return
        file, file_key = path.with_name(manifest.file), beside(key, manifest.file)
        if file_key in self.keys or file.exists():
            bring(self.objects, file_key, file, manifest.sha256)
            return
        days = list[RemoteDay]()
        if Catalog(self.cache).day_of_batch(path, manifest) is None:
            listed = keys_of_days(self.objects, manifest.seal.feed, manifest.seal.date)
            days = remote_days(self.objects, listed)
            place_days(self.cache, self.objects, days, listed)
        say_merged(self.cache, self.objects, days, path, manifest, self.now_ns)

    def bring_sessions(self, sessions: set[str]) -> None:
        for session in sorted(sessions):
            key = self.objects.bucket.keys.of_session(session)
            if key in self.keys:
                self._record(key, self.cache.sessions / session / SESSION_RECORD, SessionRecord)

    def _record(self, key: str, path: Path, kind: type[_Record]) -> _Record:
        if not path.exists():
            content = content_of(self.objects, key)
            decode(content, kind, f"{self.objects.bucket}: {key}")
            put_here(self.objects, key, path, content)
        return read(path, kind)
