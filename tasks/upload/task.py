"""Upload as a Prefect task: retried while the store is away, and without a trace of the secret.

Prefect keeps a task's arguments in memory only: its database records which earlier runs an argument came from, not
its value, and the bucket's secret is in none of its tables (`tests/tasks/upload/test_task.py` looks). The parameters
of a flow are stored, so a bucket is never one of them.
"""

import time
from pathlib import Path

from prefect import get_run_logger, task

from tasks.records.manifest import Receipt
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.task_options import RETRIED
from tasks.upload import uploads
from tasks.upload.bucket import Bucket

_RETRIED = RETRIED | {"retries": 8}


@task(task_run_name="upload {batch}", **_RETRIED)
def upload(data_dir: Path, batch: str, bucket: Bucket) -> Receipt:
    """Upload an archived batch to the bucket. Raises as `uploads.upload_batch`; only TransientError is retried."""
    receipt = uploads.upload_batch(Store(data_dir), BatchName.parse(batch), bucket, time.time_ns)
    _log(batch, bucket, receipt)
    return receipt


@task(task_run_name="upload the record of {session}", **_RETRIED)
def upload_session(data_dir: Path, session: str, bucket: Bucket) -> Receipt | None:
    """Upload the record of a session that has ended; None if it still records. Raises as `upload`."""
    receipt = uploads.upload_session(Store(data_dir), session, bucket, time.time_ns)
    if receipt is not None:
        _log(f"the record of {session}", bucket, receipt)
    return receipt


@task(task_run_name="upload {feed} {date}", **_RETRIED)
def upload_day(data_dir: Path, feed: str, date: str, bucket: Bucket) -> Receipt | None:
    """Upload a closed day's file and record; None if it has no record or no rows. Raises as `upload`."""
    receipt = uploads.upload_day(Store(data_dir), feed, date, bucket, time.time_ns, get_run_logger().warning)
    if receipt is not None:
        _log(f"{feed} {date}", bucket, receipt)
    return receipt


def _log(what: str, bucket: Bucket, receipt: Receipt) -> None:
    sent_bytes = sum(each.bytes for each in receipt.objects)
    get_run_logger().info(
        "%s: %s bytes are in %s, compared by %s", what, f"{sent_bytes:,}", bucket, receipt.manifest.checked
    )
