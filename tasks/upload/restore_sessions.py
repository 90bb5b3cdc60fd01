"""Which sessions' records come back from the bucket? Those of which every batch is here.

A session's record says how many batches it has: beside fewer it would not balance, and say that some are lost. Of a
session that is here in part it comes under another name, which says so.
"""

from collections import Counter
from collections.abc import Collection

from tasks.errors import ConflictError, CorruptionError
from tasks.records.ledger import SessionRecord
from tasks.records.manifest import decode
from tasks.records.names import SESSION_RECORD, BatchName, is_session_name
from tasks.records.sessions import PARTIAL_FILE
from tasks.storage.store import Store
from tasks.upload.fetch import content_of, put_here
from tasks.upload.object_store import ObjectStore


def place_sessions(
    store: Store,
    objects: ObjectStore,
    listed: Collection[str],
    wanted: set[str] | None,
    date: str | None,
    wrong: list[CorruptionError | ConflictError],
) -> tuple[list[int], list[str]]:
    """Bring the records of these sessions (None: of all) whose batches are all here.

    Gives the bytes of each that came, and a line on those that did not; what is `wrong` with one keeps none of the
    others. Raises as `fetch.bring` else.
    """
    here = Counter((name.session, name.lane) for name in (BatchName.parse(path.name) for path in store.manifests()))
    came, partial = list[int](), list[str]()
    for session in _sessions(objects, listed):
        key, path = objects.bucket.keys.of_session(session), store.sessions / session / SESSION_RECORD
        if wanted is not None and session not in wanted:
            continue
        try:
            content = content_of(objects, key)
            record = decode(content, SessionRecord, f"{objects.bucket}: {key}")
            if record.session != session:
                wrong.append(CorruptionError(f"{objects.bucket}: {key} is of another session; remove it there"))
                continue
            is_whole = [here[session, lane] for lane in range(len(record.batches))] == list(record.batches)
            left_out = path.with_name(PARTIAL_FILE)
            with store.locked(f"session-{session}"):
                if is_whole:
                    came.append(put_here(objects, key, path, content))
                    left_out.unlink(missing_ok=True)
                elif not path.exists():
                    put_here(objects, key, left_out, content)
        except (CorruptionError, ConflictError) as error:
            wrong.append(error)
            continue
        if not is_whole:
            partial.append(session)
    return [size for size in came if size], [_said(partial, date)] if partial else []


def _sessions(objects: ObjectStore, listed: Collection[str]) -> list[str]:
    names = (key.split("/")[-2] for key in listed if key.endswith(f"/{SESSION_RECORD}"))
    return sorted({name for name in names if is_session_name(name) and objects.bucket.keys.of_session(name) in listed})


def _said(partial: list[str], date: str | None) -> str:
    what = f"the record of {partial[0]}" + (f" and {len(partial) - 1} more" if len(partial) > 1 else "")
    if date is None:
        return f"{what} did not come: not all batches are in the bucket; run `tape archive` where it was recorded"
    return f"{what} did not come: other days of it are missing here; `tape restore` without --date brings all"
