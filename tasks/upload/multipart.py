"""How does a file too large for one put become an object, and what becomes of parts that a killed process left?

Every part goes with its SHA-256, the completion is create-only, and a multipart of ours that is not completed is
aborted. No store that was tried completes two raced multiparts right (both may be told that they won), so that
who completes must compare the whole afterwards; a single put is the rule up to the store's own limit.
"""

from contextlib import suppress
from pathlib import Path

from tasks.errors import RecorderError
from tasks.upload.object_store import NoConditionalPut, ObjectStore, Part

# The store's rule; parts grow where a file would have more.
_MOST_PARTS = 10_000
ABANDONED_AFTER_NS = 24 * 3600 * 10**9


def put_in_parts(objects: ObjectStore, key: str, file: Path, part_bytes: int) -> bool:
    """Write the file as one object, part by part; False where one stands there already. Memory: one part.

    What fails is aborted, as far as the store can be reached. Raises as `ObjectStore.put_part`.
    """
    part_bytes = max(part_bytes, -(-file.stat().st_size // _MOST_PARTS))
    upload_id = objects.begin_parts(key)
    written = False
    try:
        parts = _send(objects, key, upload_id, file, part_bytes)
        try:
            written = objects.complete_parts(key, upload_id, parts, create_only=True)
        except NoConditionalPut:
            written = objects.complete_parts(key, upload_id, parts, create_only=False)
    finally:
        if not written:
            # What brought us here is the news; a multipart left behind is aborted by a later run.
            with suppress(RecorderError):
                objects.abort_parts(key, upload_id)
    return written


def _send(objects: ObjectStore, key: str, upload_id: str, file: Path, part_bytes: int) -> list[Part]:
    parts: list[Part] = []
    with file.open("rb") as body:
        while content := body.read(part_bytes):
            parts.append(objects.put_part(key, upload_id, len(parts) + 1, content))
    return parts


def abort_abandoned(objects: ObjectStore, now_ns: int, older_than_ns: int = ABANDONED_AFTER_NS) -> list[str]:
    """Abort the multiparts under our prefix that were begun so long ago; gives their keys.

    A living upload of another machine is younger. Raises TransientError and TerminalError.
    """
    left = [
        each
        for prefix in (objects.bucket.keys.batches, objects.bucket.keys.days)
        for each in objects.unfinished_parts(prefix)
    ]
    old = [each for each in left if now_ns - each.begun_ns >= older_than_ns]
    for each in old:
        objects.abort_parts(each.key, each.id)
    return [each.key for each in old]
