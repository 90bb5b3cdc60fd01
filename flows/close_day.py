"""How is a day closed? Its archived batches become one file for each feed, by symbol and time; they stay beside it.

May be run again at any time, for any day: a day whose batches are in its file already is left as it is, and one that
has got another batch is merged anew.
"""

import datetime as dt
from pathlib import Path

from prefect import flow, get_run_logger

from flows.settings import load_settings
from tasks.manifest import Day
from tasks.market.hours import exchange_zone
from tasks.merge.task import merge
from tasks.store import Store


@flow(name="close-day")
def close_day(date: dt.date | None = None, data_dir: Path | None = None) -> list[Day]:
    """Merge what is archived of that day (today, in the exchange's time zone), for each feed."""
    settings = load_settings(data_dir=data_dir)
    store = Store(settings.data_dir).prepare()
    day = (date or dt.datetime.now(exchange_zone(settings.calendar)).date()).isoformat()
    feeds = sorted(path.parent.name.removeprefix("feed=") for path in store.archive.glob(f"feed=*/date={day}"))
    merged = [merge(settings.data_dir, feed, day) for feed in feeds]
    if not any(merged):
        get_run_logger().info("nothing is archived of %s", day)
    return [each for each in merged if each is not None]
