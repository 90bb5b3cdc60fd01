"""The Prefect task that merges a day."""

from pathlib import Path

from prefect import get_run_logger, task

from tasks.merge.day import merge as merge_day
from tasks.records.manifest import Day
from tasks.storage.store import Store
from tasks.task_options import RETRIED


@task(
    name="merge",
    task_run_name="merge {feed} {date}",
    **RETRIED,
)
def merge(data_dir: Path, feed: str, date: str) -> Day | None:
    """Merge the archived batches of a feed and day."""
    day = merge_day(Store(data_dir), feed, date)
    if day is not None:
        get_run_logger().info(
            "%s %s: %s rows of %d batches in %s bytes, by symbol and time",
            feed, date, f"{day.rows:,}", len(day.batches), f"{day.bytes:,}",
        )  # fmt: skip
    return day
