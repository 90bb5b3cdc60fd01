"""Restore a day, or the whole archive, from the bucket: verified, and never over something that differs.

With a batch come its quarantine files, with a day its closed file, and the record of each session of which every batch
is here, so that what is restored into an empty folder can be verified like what was recorded there. A session's record
says how many batches it has: beside fewer it would not balance. Of a session that is here in part, the record gets
another name.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from tasks.errors import ConflictError, CorruptionError, TerminalError
from tasks.records.ledger import SessionRecord
from tasks.records.manifest import Manifest, decode
from tasks.records.names import SESSION_RECORD, BatchName, feed_and_date
from tasks.records.sessions import PARTIAL_FILE
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.download import RemoteDay, dates_of, keys_of_days, read_record, remote_days, write_record
from tasks.upload.object_store import ObjectStore
from tasks.upload.restore_files import MissingRowsError, Transfer, batch_record, restore_batch, restore_days


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back: batches fetched and batches that were here already, equal; closed days; records of sessions.

    `bytes` is all that was fetched. `notes` say what the bucket does not have.
    """

    fetched: int
    bytes: int
    equal: int
    days: int = 0
    sessions: int = 0
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Progress:
    """The bytes of each batch (0 if it was here), day and session that came so far, and what went wrong."""

    batches: list[int] = field(default_factory=list)
    days: list[int] = field(default_factory=list)
    sessions: list[int] = field(default_factory=list)
    sessions_seen: set[str] = field(default_factory=set)
    partial_sessions: list[str] = field(default_factory=list)
    missing: list[MissingRowsError] = field(default_factory=list)
    wrong: list[CorruptionError | ConflictError] = field(default_factory=list)

    def raise_problems(self) -> None:
        """Raise the first error of what could not be restored, if any, with the number of the others."""
        if self.wrong:
            first, others = self.wrong[0], len(self.wrong) + len(self.missing) - 1
            raise type(first)(f"{first}" + (f" (and {others:,} more;" if others else " (") + "all else is restored)")
        if self.missing:
            raise MissingRowsError(f"{self.missing[0]} ({len(self.missing):,} such batches; all else is restored)")

    def restored(self, notes: tuple[str, ...]) -> Restored:
        """Return what came back."""
        return Restored(
            fetched=sum(size > 0 for size in self.batches), equal=self.batches.count(0),
            bytes=sum(self.batches) + sum(self.days) + sum(self.sessions),
            days=len(self.days), sessions=sum(size > 0 for size in self.sessions), notes=notes,
        )  # fmt: skip


def restore(
    store: Store, bucket: Bucket, date: str | None, now_ns: Callable[[], int],
    note: Callable[[int, int], None] = lambda _done, _total: None,
) -> Restored:  # fmt: skip
    """Restore that day (YYYY-MM-DD), or everything in the bucket, into the data folder.

    `note` is called with the number of days that are done, and of all. After a kill, run it again: it continues.

    Raises TransientError; TerminalError if the bucket has nothing of that day; and, once all else is here,
    CorruptionError if an object is not what its record or name says, or if a batch's file is gone and no day has its
    rows, and ConflictError if other bytes or rows are here: nothing of that batch or day is then written.
    """
    objects, progress = ObjectStore(bucket), _Progress()
    transfer, day_keys = Transfer(store, objects, objects.keys(bucket.keys.batches), now_ns), keys_of_days(objects)
    manifests = _manifests_by_date(transfer)
    # Day by day: the records of a year's days are more than memory should have to hold.
    dates = sorted(manifests.keys() | dates_of(objects, day_keys)) if date is None else [date]
    for done, each in enumerate(dates):
        note(done, len(dates))
        days = remote_days(objects, day_keys, each, progress.wrong)
        progress.days += restore_days(store, objects, days, day_keys, progress.wrong)
        _restore_batches(transfer, manifests.get(each, []), days, progress)
    if not (progress.batches or progress.missing or progress.wrong):
        raise TerminalError(
            f"{bucket}: holds no batch of {date or 'any day'} under {bucket.prefix}/; `tape ls` shows the days"
        )
    _restore_sessions(transfer, progress, is_whole_archive=date is None)
    progress.raise_problems()
    return progress.restored(tuple(_notes(transfer, progress, date)))


def _manifests_by_date(transfer: Transfer) -> dict[str, list[str]]:
    """Return the keys of the manifests by date. A manifest is uploaded last: its batch is complete."""
    found: dict[str, list[str]] = {}
    for key in filter(transfer.keys.holds_manifest, transfer.listed):
        _, date = feed_and_date(PurePosixPath(key).parent)
        found.setdefault(date, []).append(key)
    return found


def _restore_batches(transfer: Transfer, keys: list[str], days: list[RemoteDay], progress: _Progress) -> None:
    """Restore the batches of a date: those of these manifests, and those that only a closed day knows."""
    in_days = {_manifest_key(transfer, each): each for day in days for each in day.day.batches}
    for key in sorted(in_days.keys() | keys):
        try:
            name = BatchName.parse(batch_record(transfer.store, transfer.objects, key).name)
            progress.sessions_seen.add(name.session)
            known = None if key in transfer.listed else in_days[key]
            progress.batches.append(restore_batch(transfer, key, days, known))
        except MissingRowsError as error:
            progress.missing.append(error)
        except (CorruptionError, ConflictError) as error:
            progress.wrong.append(error)


def _manifest_key(transfer: Transfer, manifest: Manifest) -> str:
    file = BatchName.parse(manifest.batch).manifest
    return transfer.keys.of_batch(manifest.seal.feed, manifest.seal.date, file)


def _restore_sessions(transfer: Transfer, progress: _Progress, *, is_whole_archive: bool) -> None:
    """Restore the records of all sessions, or of those whose batches were looked at."""
    names = (BatchName.parse(path.name) for path in transfer.store.manifests())
    here = Counter((name.session, name.lane) for name in names)
    for session in transfer.sessions():
        if is_whole_archive or session in progress.sessions_seen:
            try:
                _restore_session(transfer, session, here, progress)
            except (CorruptionError, ConflictError) as error:
                progress.wrong.append(error)


def _restore_session(transfer: Transfer, session: str, here: Counter[tuple[str, int]], progress: _Progress) -> None:
    key, path = transfer.keys.of_session(session), transfer.store.sessions / session / SESSION_RECORD
    content = read_record(transfer.objects, key)
    record = decode(content, SessionRecord, f"{transfer.objects.bucket}: {key}")
    if record.session != session:
        raise CorruptionError(f"{transfer.objects.bucket}: {key} is of another session; remove it there")
    is_complete = [here[session, lane] for lane in range(len(record.batches))] == list(record.batches)
    partial = path.with_name(PARTIAL_FILE)
    with transfer.store.locked(f"session-{session}"):
        if is_complete:
            progress.sessions.append(write_record(transfer.objects, key, path, content))
            partial.unlink(missing_ok=True)
        elif not path.exists():
            write_record(transfer.objects, key, partial, content)
    if not is_complete:
        progress.partial_sessions.append(session)


def _notes(transfer: Transfer, progress: _Progress, date: str | None) -> Iterator[str]:
    missing, partial = transfer.missing_rejects, progress.partial_sessions
    if missing:
        yield (
            f"{len(missing):,} files in quarantine are not in the bucket, such as {missing[0]}: "
            "run `tape archive` where they were recorded"
        )
    if partial:
        what = f"the record of {partial[0]}" + (f" and {len(partial) - 1} more" if len(partial) > 1 else "")
        why = (
            "not all batches are in the bucket; run `tape archive` where it was recorded"
            if date is None
            else "other days of it are missing here; `tape restore` without --date brings all"
        )
        yield f"{what} did not come: {why}"
