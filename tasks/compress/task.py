"""The compression of a batch as Prefect sees it."""

from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from tasks.batch import BatchName
from tasks.compress.parquet import compress as compress_batch
from tasks.errors import may_mend
from tasks.forms import Form as Form
from tasks.manifest import Manifest
from tasks.store import Store


@task(
    name="compress",
    task_run_name="compress {batch}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=3,
    retry_delay_seconds=exponential_backoff(2),
    retry_jitter_factor=0.5,
    retry_condition_fn=may_mend,
)
def compress(data_dir: Path, batch: str, form: Form) -> Manifest:
    """Archive the validated batch of that name in that data folder, in that form."""
    manifest = compress_batch(Store(data_dir), BatchName.parse(batch), form)
    log = get_run_logger()
    if manifest.file is None:
        log.warning("%s: no valid row: the archive holds its manifest alone", batch)
        return manifest
    each = manifest.bytes / manifest.rows
    log.info("%s: %s rows in %s bytes, %.2f a trade", batch, f"{manifest.rows:,}", f"{manifest.bytes:,}", each)
    return manifest
