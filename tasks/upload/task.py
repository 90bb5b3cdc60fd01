"""How does a flow upload a batch: with retries while the store is away, and nothing secret on record?

Prefect keeps a task's arguments in memory only: its database records which earlier runs an argument came from, not
its value, and the bucket's secret stands in none of its tables (`tests/tasks/upload/test_task.py` looks). A flow's
parameters are stored, so a bucket is never one.
"""

import time
from pathlib import Path

from prefect import get_run_logger, task

from tasks.errors import RecorderError
from tasks.records.manifest import Receipt
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.task_options import RETRIED
from tasks.upload import days, once, sessions
from tasks.upload.bucket import Bucket
from tasks.upload.multipart import abort_abandoned
from tasks.upload.object_store import ObjectStore

_RETRIED = RETRIED | {"retries": 8}


@task(task_run_name="upload {batch}", **_RETRIED)
def upload(data_dir: Path, batch: str, bucket: Bucket) -> Receipt:
    """Upload an archived batch to the bucket. Errors as `once.upload`; only TransientError is tried again."""
    receipt = once.upload(Store(data_dir), BatchName.parse(batch), bucket, time.time_ns)
    _tell(batch, bucket, receipt)
    return receipt


@task(task_run_name="upload the record of {session}", **_RETRIED)
def upload_session(data_dir: Path, session: str, bucket: Bucket) -> Receipt | None:
    """Upload the record of a session that has ended; None of one that still records. Errors as `upload`."""
    receipt = sessions.upload_session(Store(data_dir), session, bucket, time.time_ns)
    if receipt is not None:
        _tell(f"the record of {session}", bucket, receipt)
    return receipt


@task(task_run_name="upload {feed} {date}", **_RETRIED)
def upload_day(data_dir: Path, feed: str, date: str, bucket: Bucket) -> Receipt | None:
    """Upload a closed day's file and record; None where it has no record or no rows. Errors as `upload`."""
    receipt = days.upload_day(Store(data_dir), feed, date, bucket, time.time_ns, get_run_logger().warning)
    if receipt is not None:
        _tell(f"{feed} {date}", bucket, receipt)
    return receipt


def _tell(what: str, bucket: Bucket, receipt: Receipt) -> None:
    sent_bytes = sum(each.bytes for each in receipt.objects)
    get_run_logger().info(
        "%s: %s bytes are in %s, compared by %s", what, f"{sent_bytes:,}", bucket, receipt.manifest.checked
    )


def tidy(bucket: Bucket) -> None:
    """Abort what killed uploads left in the bucket a day ago or before; where it cannot be, that is only said."""
    log = get_run_logger()
    try:
        for key in abort_abandoned(ObjectStore(bucket), time.time_ns()):
            log.warning("%s: a multipart of %s was left by an upload that was killed; it is aborted", bucket, key)
    except RecorderError as error:
        log.warning("multiparts that killed uploads may have left were not looked for: %s", error)
