"""How does an archive come back from the bucket: verified, and never over something that differs?

With a batch come its quarantine files, with a day its merged file, and with a session of which every batch is here its
record: what is restored into an empty folder can be verified like what was recorded there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from tasks.errors import ConflictError, CorruptionError, TerminalError
from tasks.records.manifest import Manifest
from tasks.records.names import BatchName, feed_and_date
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.object_store import ObjectStore
from tasks.upload.remote_days import dates_of, keys_of_days, remote_days
from tasks.upload.restore_batch import Gone, Holdings, place_of, restore_batch
from tasks.upload.restore_days import place_days
from tasks.upload.restore_sessions import place_sessions


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
class _Came:
    """The bytes of each batch that was looked at (0: it stood here), of each day and session's record that came."""

    batches: list[int] = field(default_factory=list)
    days: list[int] = field(default_factory=list)
    sessions: set[str] = field(default_factory=set)
    gone: list[str] = field(default_factory=list)
    wrong: list[CorruptionError | ConflictError] = field(default_factory=list)


def restore(
    store: Store, bucket: Bucket, date: str | None, now_ns: Callable[[], int],
    note: Callable[[int, int], None] = lambda _done, _total: None,
) -> Restored:  # fmt: skip
    """Bring that day (YYYY-MM-DD), or everything, of the bucket into the data folder.

    `note` is told how many days are here, and of how many.

    Killed, it is run again and takes up where it was. Raises TransientError; TerminalError where the bucket holds
    nothing of that day; and once all else is here CorruptionError where an object is not what its record or its name
    says, or a batch's file is gone and no day holds it, and ConflictError where other bytes or rows stand here already:
    nothing of that batch, or day, is then written.
    """
    objects, came = ObjectStore(bucket), _Came()
    held, day_keys = Holdings(objects, objects.keys(bucket.keys.batches)), keys_of_days(objects)
    manifests = _by_date(held)
    # Day by day: the records of a year's days are more than memory should have to hold.
    dates = sorted(manifests.keys() | dates_of(objects, day_keys)) if date is None else [date]
    for done, each in enumerate(dates):
        note(done, len(dates))
        held.days = remote_days(objects, day_keys, each, came.wrong)
        came.days += place_days(store, objects, held.days, day_keys, came.wrong)
        _restore_batches(store, held, manifests.get(each, []), came, now_ns)
    if not came.batches and not came.gone and not came.wrong:
        raise TerminalError(
            f"{bucket}: holds no batch of {date or 'any day'} under {bucket.prefix}/; `tape ls` shows the days"
        )
    wanted = None if date is None else came.sessions
    sessions, session_notes = place_sessions(store, objects, held.keys, wanted, date, came.wrong)
    if came.wrong:
        first, others = came.wrong[0], len(came.wrong) + len(came.gone) - 1
        raise type(first)(f"{first}" + (f" (and {others:,} more;" if others else " (") + "all else is restored)")
    if came.gone:
        raise Gone(f"{came.gone[0]} ({len(came.gone):,} such batches; all else is restored)")
    return Restored(
        fetched=sum(size > 0 for size in came.batches), bytes=sum(came.batches) + sum(came.days) + sum(sessions),
        equal=came.batches.count(0), days=len(came.days), sessions=len(sessions),
        notes=(*_notes(held), *session_notes),
    )  # fmt: skip


def _restore_batches(store: Store, held: Holdings, keys: list[str], came: _Came, now_ns: Callable[[], int]) -> None:
    """The batches of a date: those of these manifests, and those of which only a day tells."""
    told = {_key_of(held, each): each for day in held.days for each in day.day.batches}
    for key in sorted(told.keys() | keys):
        try:
            came.sessions.add(BatchName.parse(place_of(store, held.objects, key).name).session)
            came.batches.append(restore_batch(store, held, key, None if key in held.keys else told[key], now_ns))
        except Gone as error:
            came.gone.append(str(error))
        except (CorruptionError, ConflictError) as error:
            came.wrong.append(error)


def _by_date(held: Holdings) -> dict[str, list[str]]:
    """The keys of the manifests under the prefix, by their dates. A manifest goes up last: its batch is whole."""
    found: dict[str, list[str]] = {}
    for key in filter(held.objects.bucket.keys.holds_manifest, held.keys):
        _, date = feed_and_date(PurePosixPath(key).parent)
        found.setdefault(date, []).append(key)
    return found


def _key_of(held: Holdings, manifest: Manifest) -> str:
    file, seal = BatchName.parse(manifest.batch).manifest, manifest.seal
    return held.objects.bucket.keys.of_batch(seal.feed, seal.date, file)


def _notes(held: Holdings) -> Iterator[str]:
    if held.without:
        yield (
            f"{len(held.without):,} files in quarantine are not in the bucket, such as {held.without[0]}: "
            "run `tape archive` where they were recorded"
        )
