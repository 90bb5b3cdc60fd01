"""The Prefect task that validates a batch."""

from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from tasks.records.manifest import Report
from tasks.records.names import BatchName
from tasks.shown import in_markdown, plain
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
    """Split a sealed batch and publish its report as an artifact of the run."""
    log = get_run_logger()
    report = split(Store(data_dir), BatchName.parse(batch), limits)
    if report.structural:
        log.error("%s: the whole batch is in quarantine: %s", batch, report.structural)
    elif report.quarantined:
        log.warning("%s: %s of %s rows are in quarantine", batch, f"{report.quarantined:,}", f"{report.rows:,}")
    log.info("%s: %s valid rows, %s re-sent", batch, f"{report.valid:,}", f"{report.resent_rows:,}")
    try:
        create_markdown_artifact(markdown(batch, report), key=f"report-{batch.lower()}", description=f"Batch {batch}")
    except Exception as error:  # noqa: BLE001, RUF100 - a failed artifact must not fail a finished step
        log.warning("%s: its report cannot be shown: %s", batch, error)
    return report


def markdown(batch: str, report: Report) -> str:
    """Return the report as Markdown."""
    lines = [
        f"# {batch}",
        "",
        f"{report.rows:,} rows = **{report.valid:,} valid** + **{report.quarantined:,} quarantined**; "
        f"{report.resent_rows:,} re-sent, {report.out_of_order:,} out of order, "
        f"{report.late:,} more than ten seconds late.",
    ]
    if report.structural:
        lines += ["", f"**The whole batch was rejected**: {in_markdown(report.structural)}"]
    lines += _table(("rule broken", "rows"), report.reasons)
    lines += _table(("receive minus event time", "ms"), report.lag_ms)
    lines += _table(("symbol", "valid rows"), dict(sorted(report.per_symbol.items(), key=lambda item: -item[1])[:50]))
    if report.examples:
        lines += ["", "Some quarantined lines:", "", *(f"    {plain(example)}" for example in report.examples)]
    return "\n".join(lines) + "\n"


def _table(head: tuple[str, str], rows: dict[str, int] | dict[str, float]) -> list[str]:
    if not rows:
        return []
    return [
        "",
        f"| {head[0]} | {head[1]} |",
        "| --- | ---: |",
        *(f"| {in_markdown(key)} | {rows[key]:,} |" for key in rows),
    ]
