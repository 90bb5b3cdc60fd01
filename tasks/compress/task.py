"""The Prefect task that compresses a batch."""

from pathlib import Path

from prefect import get_run_logger, task

from tasks.archive.encodings import Encoding
from tasks.compress.parquet import compress as compress_batch
from tasks.records.manifest import Manifest
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.task_options import RETRIED


@task(
    name="compress",
    task_run_name="compress {batch}",
    **RETRIED,
)
def compress(data_dir: Path, batch: str, encoding: Encoding) -> Manifest:
    """Archive a validated batch in the given encoding."""
    manifest = compress_batch(Store(data_dir), BatchName.parse(batch), encoding)
    log = get_run_logger()
    if manifest.file is None:
        log.warning("%s: no valid row: the archive holds only its manifest", batch)
        return manifest
    each = manifest.bytes / manifest.rows
    log.info("%s: %s rows in %s bytes, %.2f a trade", batch, f"{manifest.rows:,}", f"{manifest.bytes:,}", each)
    return manifest
