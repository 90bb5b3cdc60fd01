"""How does the record of a session that has ended go to the bucket, so that a restore elsewhere can balance it?

Its key is `<prefix>/_sessions/<session>/session.json`; its receipt lies beside the record.
"""

from collections.abc import Callable
from pathlib import Path

from tasks.records.manifest import Receipt, encode
from tasks.records.names import is_session_name
from tasks.storage.store import Store, write_whole
from tasks.upload.bucket import Bucket
from tasks.upload.once import receipt_of
from tasks.upload.send import outgoing, send_all

RECORD, RECEIPT = "session.json", "receipt.json"


def upload_session(store: Store, session: str, bucket: Bucket, now_ns: Callable[[], int]) -> Receipt | None:
    """Put the record of a session into the bucket, and write the receipt beside it; None of one that still records.

    Run again, it gives the receipt that stands and asks the store nothing. Raises as `once.upload`.
    """
    with store.locked(f"session-{session}"):
        record = store.sessions / session / RECORD
        if not record.exists():
            return None
        standing = receipt_of(record.with_name(RECEIPT), bucket)
        sent = send_all(bucket, [outgoing(record, session_key(bucket, session))], standing)
        if standing is not None and standing.objects == tuple(sent):
            return standing
        receipt = Receipt(
            batch=session, bucket=bucket.name, endpoint=bucket.endpoint_url, uploaded_ns=now_ns(),
            object=None, manifest=sent[0],
        )  # fmt: skip
        write_whole(record.with_name(RECEIPT), encode(receipt))
        return receipt


def session_key(bucket: Bucket, session: str) -> str:
    """The key of a session's record."""
    return f"{bucket.prefix}/_sessions/{session}/{RECORD}"


def ended_sessions(store: Store) -> list[Path]:
    """The records of all sessions that have ended, oldest first."""
    return sorted(path for path in store.sessions.glob(f"*/{RECORD}") if is_session_name(path.parent.name))


def sessions_awaiting_upload(store: Store, bucket: Bucket) -> list[str]:
    """The sessions that have ended, and whose record has no receipt of this bucket. Asks no store."""
    return [path.parent.name for path in ended_sessions(store) if receipt_of(path.with_name(RECEIPT), bucket) is None]
