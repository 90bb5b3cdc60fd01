"""Which merged days does the bucket hold, and which batches are in them?"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath

from tasks.errors import ConflictError, CorruptionError
from tasks.records.manifest import Day, Manifest, decode
from tasks.upload.fetch import content_of
from tasks.upload.object_store import ObjectStore


@dataclass(frozen=True, slots=True)
class RemoteDay:
    """A day's record in the bucket: its key and bytes, what it says, and the key of the file that it tells of."""

    key: str
    content: bytes
    day: Day
    file_key: str

    def holds(self, manifest: Manifest) -> bool:
        """Whether the rows of that very batch are in it."""
        return manifest in self.day.batches


def is_within(part: Day, whole: Day) -> bool:
    """Whether all batches of the one day are in the other too, as the same ones."""
    return _named(part) <= _named(whole)


def _named(day: Day) -> set[tuple[str, str]]:
    return {(each.batch, each.sha256) for each in day.batches}


def keys_of_days(objects: ObjectStore, feed: str | None = None, date: str | None = None) -> dict[str, int]:
    """Everything of merged days: its bytes by its key; of one feed and date, or of all."""
    keys = objects.bucket.keys
    return objects.keys(keys.days if feed is None or date is None else keys.of_day(feed, date))


def dates_of(objects: ObjectStore, listed: Collection[str]) -> set[str]:
    """The dates of the days whose records are among these keys."""
    return {day[1] for day in map(objects.bucket.keys.day_at, listed) if day is not None}


def remote_days(
    objects: ObjectStore,
    listed: Collection[str],
    date: str | None = None,
    wrong: list[CorruptionError | ConflictError] | None = None,
) -> list[RemoteDay]:  # fmt: skip
    """The days (of that date) whose records are among these keys, those of most batches first.

    Their files may be missing: a day that is being replaced loses its file first. Raises CorruptionError where a
    record is not as it was written; where there is a list `wrong`, it goes there, and the others are given.
    """
    found = []
    for key in sorted(listed):
        told = objects.bucket.keys.day_at(key)
        if told is not None and date in (None, told[1]):
            try:
                found.append(_read(objects, key, *told))
            except CorruptionError as error:
                if wrong is None:
                    raise
                wrong.append(error)
    return sorted(found, key=lambda each: (each.day.date, each.day.feed, -len(each.day.batches), each.key))


def _read(objects: ObjectStore, key: str, feed: str, date: str, stem: str) -> RemoteDay:
    content = content_of(objects, key)
    day = decode(content, Day, f"{objects.bucket}: {key}")
    if day.file is None or (day.feed, day.date, PurePosixPath(day.file).stem) != (feed, date, stem) or "/" in day.file:
        raise CorruptionError(f"{objects.bucket}: {key} tells of another day than its name; `tape verify --remote`")
    return RemoteDay(key, content, day, str(PurePosixPath(key).with_name(day.file)))
