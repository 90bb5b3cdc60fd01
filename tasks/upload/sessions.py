"""How does the record of a session that has ended go to the bucket, so that a restore elsewhere can balance it?

Its key is `<prefix>/_sessions/<session>/session.json`; its receipt lies beside the record.
"""

from collections.abc import Callable
from pathlib import Path

from tasks.archive.side_records import acknowledged
from tasks.records.manifest import Receipt, encode
from tasks.records.names import SESSION_RECORD, is_session_name, receipt_record
from tasks.storage.store import Store, write_whole
from tasks.upload.bucket import Bucket
from tasks.upload.send import outgoing, send_all


def upload_session(store: Store, session: str, bucket: Bucket, now_ns: Callable[[], int]) -> Receipt | None:
    """Put the record of a session into the bucket, and write the receipt beside it; None of one that still records.

    Run again, it gives the receipt that stands and asks the store nothing. Raises as `once.upload`.
    """
    with store.locked(f"session-{session}"):
        record = store.sessions / session / SESSION_RECORD
        if not record.exists():
            return None
        standing = acknowledged(record, bucket.place)
        sent = send_all(bucket, [outgoing(record, bucket.keys.of_session(session))], standing)
        if standing is not None and standing.objects == tuple(sent):
            return standing
        receipt = Receipt(
            batch=session, bucket=bucket.name, endpoint=bucket.endpoint_url, uploaded_ns=now_ns(),
            object=None, manifest=sent[0],
        )  # fmt: skip
        write_whole(receipt_record(record), encode(receipt))
        return receipt


def ended_sessions(store: Store) -> list[Path]:
    """The records of all sessions that have ended, oldest first."""
    return sorted(path for path in store.sessions.glob(f"*/{SESSION_RECORD}") if is_session_name(path.parent.name))


def sessions_awaiting_upload(store: Store, bucket: Bucket) -> list[str]:
    """The sessions that have ended, and whose record has no receipt of this bucket. Asks no store."""
    return [path.parent.name for path in ended_sessions(store) if acknowledged(path, bucket.place) is None]
