"""How does a flow upload a batch: with retries while the store is away, and nothing secret on record?

Prefect keeps a task's arguments in memory only: its database records which earlier runs an argument came from, not
its value, and the bucket's secret stands in none of its tables (`tests/tasks/upload/test_task.py` looks). A flow's
parameters are stored, so a bucket is never one.
"""

import time
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from tasks.batch import BatchName
from tasks.errors import RecorderError, TransientError
from tasks.manifest import Receipt
from tasks.store import Store
from tasks.upload import once
from tasks.upload.audit import RemoteVerdict, audit
from tasks.upload.bucket import Bucket
from tasks.upload.multipart import abort_abandoned
from tasks.upload.object_store import ObjectStore
from tasks.upload.once import uploaded
from tasks.upload.probe import Abilities, probe
from tasks.upload.restore import Restored, mirror, restore

__all__ = [
    "Abilities", "Bucket", "RemoteVerdict", "Restored", "audit", "mirror", "probe", "restore", "tidy", "upload",
    "uploaded",
]  # fmt: skip


def _may_mend(_task: Any, _run: Any, state: Any) -> bool:
    return isinstance(state.result(raise_on_failure=False), TransientError)


@task(
    task_run_name="upload {batch}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=8,
    retry_delay_seconds=exponential_backoff(2),
    retry_jitter_factor=0.5,
    retry_condition_fn=_may_mend,
)
def upload(data_dir: Path, batch: str, bucket: Bucket) -> Receipt:
    """Upload an archived batch to the bucket. Errors as `once.upload`; only TransientError is tried again."""
    receipt = once.upload(Store(data_dir), BatchName.parse(batch), bucket, time.time_ns)
    sent = (receipt.object.bytes if receipt.object else 0) + receipt.manifest.bytes
    get_run_logger().info(
        "%s: %s bytes are in %s, compared by %s", batch, f"{sent:,}", bucket, receipt.manifest.checked
    )
    return receipt


def tidy(bucket: Bucket) -> None:
    """Abort what killed uploads left in the bucket a day ago or before; where it cannot be, that is only said."""
    log = get_run_logger()
    try:
        for key in abort_abandoned(ObjectStore(bucket), time.time_ns()):
            log.warning("%s: a multipart of %s was left by an upload that was killed; it is aborted", bucket, key)
    except RecorderError as error:
        log.warning("multiparts that killed uploads may have left were not looked for: %s", error)
