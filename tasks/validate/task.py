"""The Prefect task that validates a batch."""

from pathlib import Path

from prefect import get_run_logger, task

from tasks.records.manifest import Report
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.task_options import RETRIED
from tasks.validate.schema import Limits
from tasks.validate.split import split


@task(
    name="validate",
    task_run_name="validate {batch}",
    **RETRIED,
)
def validate(data_dir: Path, batch: str, limits: Limits) -> Report:
    """Split a sealed batch into valid and quarantined rows; return its report."""
    log = get_run_logger()
    report = split(Store(data_dir), BatchName.parse(batch), limits)
    if report.structural:
        log.error("%s: the whole batch is in quarantine: %s", batch, report.structural)
    elif report.quarantined:
        log.warning("%s: %s of %s rows are in quarantine", batch, f"{report.quarantined:,}", f"{report.rows:,}")
    log.info("%s: %s valid rows, %s re-sent", batch, f"{report.valid:,}", f"{report.resent_rows:,}")
    return report
