"""How does one exchange day get recorded? Ask the calendar, record from before the open until after the close, archive.

Meant for a schedule that fires on every weekday: on a holiday the run ends as `Skipped`, on a short day it ends
early, both by the exchange's own calendar.
"""

import datetime as dt
import time
from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.archive_batches import TWO_AT_A_TIME, archive_batches
from flows.close_days import close_day
from flows.record_session import make_ready, recorded, request_for
from flows.settings import Settings, load_settings, settings_to_write
from flows.surroundings import check_feed
from tasks.capture.task import recover_sessions
from tasks.duration import format_duration
from tasks.errors import SettingsError, TerminalError
from tasks.market.hours import date_in, exchange_zone, trading_day_for
from tasks.records.ledger import Ledger, Request
from tasks.records.trade import NS_PER_S
from tasks.storage.store import Store
from tasks.verify.account import Account, account_of


class DayShort(TerminalError):
    """The day was not recorded as the settings ask: no trade came, or too little of its market hours is covered."""


def _run_name() -> str:
    """Named after the day that it records, also where a schedule gives none."""
    try:
        return f"trading day {flow_run.parameters.get('date') or today(load_settings().calendar, time.time_ns())}"
    except SettingsError:  # The flow says what is wrong, and where.
        return "trading day"


@flow(name="trading-day", flow_run_name=_run_name, task_runner=TWO_AT_A_TIME)
def trading_day(symbols: list[str] | None = None, date: dt.date | None = None) -> Ledger | Any:
    """Record the exchange's day `date` (today, in its time zone), archive whatever is left of it, and close it.

    Ends as `Skipped` where the exchange is closed that day. Raises DayShort where too little of the day was recorded,
    by this run and by all others; at the end, what `archive_batches` raises of what other days left.
    """
    settings = settings_to_write(symbols=symbols)
    check_feed(settings)
    day = date or today(settings.calendar, time.time_ns())
    hours = trading_day_for(
        day, settings.calendar, before_open_ns=settings.open_before_ns, after_close_ns=settings.close_after_ns
    )
    if hours is None:
        return _skipped(f"{settings.calendar} does not trade on {day}")
    wanted = request_for(settings, hours.open_ns, hours.close_ns)
    if time.time_ns() >= hours.close_ns:
        return _judged_late(settings, day, wanted)
    make_ready(settings)
    _wait_until(hours.open_ns)
    done = recorded(settings, wanted, time.time_ns(), wait_for_key=True)
    left = archive_batches(return_state=True)  # What is wrong with another day's keeps this one from nothing.
    close_day(date=day)
    reason = short_of(done.account, settings.min_coverage)
    if reason is not None:
        raise DayShort(f"{day}: {reason}")
    left.result()
    return done.ledger


def short_of(account: Account, least: float) -> str | None:
    """Why that account is not a day that was recorded, or None where it is: `least` is a share, from 0 to 1."""
    coverage = account.coverage
    if not account.trades:
        return f"no trade was received in {format_duration(account.request.end_ns - account.request.start_ns)}"
    shares = {symbol: each.hours_share for symbol, each in coverage.per_symbol.items()}
    short = {symbol: share for symbol, share in shares.items() if share is not None and share < least}
    if not short:
        return None
    worst = sorted(short, key=lambda symbol: short[symbol])[:5]
    longest = max(coverage.gaps, key=lambda gap: (gap.end_ns or gap.start_ns) - gap.start_ns)
    return (
        f"coverage of market hours is {coverage.hours_share:.1%}, {len(short)} of {len(shares)} "
        f"symbols are below {least:.0%} ({', '.join(f'{symbol} {short[symbol]:.1%}' for symbol in worst)}); "
        f"the longest gap: {longest.reason}"
    )


def today(calendar: str, now_ns: int) -> dt.date:
    """The exchange's own date at that time (UTC ns), which need not be UTC's or this machine's."""
    return dt.date.fromisoformat(date_in(exchange_zone(calendar), now_ns))


def _skipped(reason: str) -> Any:
    get_run_logger().info("%s", reason)
    return Completed(name="Skipped", message=reason)


def _judged_late(settings: Settings, day: dt.date, wanted: Request) -> Any:
    """The end of a run that began when the day was over: green only where other runs had recorded the day."""
    store = Store(settings.data_dir).prepare()
    recover_sessions(store.root)
    reason = short_of(account_of(store, wanted), settings.min_coverage)
    if reason is not None:
        raise DayShort(f"{day} was over before this run began, and had not been recorded: {reason}")
    return _skipped(f"{day} was over before this run began, and had been recorded")


def _wait_until(start_ns: int) -> None:
    """Sleep until then; a schedule may fire before the day that the settings ask for begins."""
    while (left_s := (start_ns - time.time_ns()) / NS_PER_S) > 0:
        get_run_logger().info("recording starts in %.0f s", left_s)
        time.sleep(min(left_s, 300))
