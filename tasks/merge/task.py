"""The close of a day as Prefect sees it."""

from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from tasks.errors import may_mend
from tasks.manifest import Day
from tasks.merge.day import merge as merge_day
from tasks.store import Store


@task(
    name="merge",
    task_run_name="merge {feed} {date}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=3,
    retry_delay_seconds=exponential_backoff(2),
    retry_jitter_factor=0.5,
    retry_condition_fn=may_mend,
)
def merge(data_dir: Path, feed: str, date: str) -> Day | None:
    """Merge the archived batches of that feed and day."""
    day = merge_day(Store(data_dir), feed, date)
    if day is not None:
        get_run_logger().info(
            "%s %s: %s rows of %d batches in %s bytes, by symbol and time",
            feed, date, f"{day.rows:,}", len(day.batches), f"{day.bytes:,}",
        )  # fmt: skip
    return day
