"""How does one exchange day get recorded? Ask the calendar, record from before the open until after the close, archive.

Meant for a schedule that fires on every weekday: on a holiday the run ends as `Skipped`, on a short day it ends
early, both by the exchange's own calendar.
"""

import datetime as dt
import time
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.close_day import close_day
from flows.process_batches import process_batches
from flows.record_session import record_session
from flows.settings import load_settings
from flows.surroundings import check_feed
from tasks.errors import SettingsError
from tasks.ledger import Ledger
from tasks.market.hours import TradingDay, exchange_zone, trading_day_for
from tasks.trade import NS_PER_S


def _run_name() -> str:
    """Named after the day that it records, also where a schedule gives none."""
    try:
        return f"trading day {flow_run.parameters.get('date') or _today(load_settings().calendar)}"
    except SettingsError:  # The flow says what is wrong, and where.
        return "trading day"


@flow(name="trading-day", flow_run_name=_run_name)
def trading_day(
    symbols: list[str] | None = None,
    date: dt.date | None = None,
    feed_url: str | None = None,
    data_dir: Path | None = None,
) -> Ledger | Any:
    """Record the exchange's day `date` (today, in its time zone), archive whatever is left of it, and close it.

    Ends as `Skipped` where the exchange is closed that day, or the day's recording would be over already.
    """
    settings = load_settings(symbols=symbols, feed_url=feed_url, data_dir=data_dir)
    check_feed(settings)
    day = date or _today(settings.calendar)
    hours = trading_day_for(
        day, settings.calendar, before_open_ns=settings.open_before_ns, after_close_ns=settings.close_after_ns
    )
    reason = _reason_to_skip(day, hours, settings.calendar, time.time_ns())
    if hours is None or reason is not None:
        get_run_logger().info("%s", reason)
        return Completed(name="Skipped", message=reason)
    _wait_until(hours.open_ns)
    end = dt.datetime.fromtimestamp(hours.close_ns / NS_PER_S, dt.UTC).isoformat()
    ledger = record_session(symbols=symbols, until=end, feed_url=feed_url, data_dir=data_dir)
    process_batches(data_dir=data_dir)
    close_day(date=day, data_dir=data_dir)
    return ledger


def _today(calendar: str) -> dt.date:
    return dt.datetime.now(exchange_zone(calendar)).date()


def _reason_to_skip(day: dt.date, hours: TradingDay | None, calendar: str, now_ns: int) -> str | None:
    if hours is None:
        return f"{calendar} does not trade on {day}"
    if now_ns >= hours.close_ns:
        return f"the recording of {calendar} on {day} would be over already"
    return None


def _wait_until(start_ns: int) -> None:
    """Sleep until then; a schedule may fire before the day that the settings ask for begins."""
    while (left_s := (start_ns - time.time_ns()) / NS_PER_S) > 0:
        get_run_logger().info("recording starts in %.0f s", left_s)
        time.sleep(min(left_s, 300))
