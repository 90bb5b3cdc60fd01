"""Records one trading day of an exchange, from before the open until after the close, and archives it.

Meant for a schedule that fires every weekday: by the exchange's calendar, the run ends as `Skipped` on a holiday, and
early on a short day.
"""

import datetime as dt
import time
from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.archive_batches import TWO_AT_A_TIME, archive_batches
from flows.close_days import close_day
from flows.events import emit_of_recovered, emit_of_short_day
from flows.orchestrator import completed, subflow
from flows.record_session import make_ready, recorded, request_for, session_for, symbol_count
from flows.run_page import RunPage
from flows.runs import add_tags, independent_of_api, note_run
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
    """Raised if a day was not recorded as configured: it has no trades, or too little coverage of market hours."""


def _run_name() -> str:
    """Name the run after its market, day, and number of symbols, even if the schedule gives none of them."""
    given = flow_run.parameters
    try:
        settings = load_settings(symbols=given.get("symbols"), calendar=given.get("calendar"))
        day = given.get("date") or today(settings.calendar, time.time_ns())
    except SettingsError:  # The flow reports what is wrong, and where.
        return "trading day"
    return f"{settings.calendar} {day}, {symbol_count(settings.symbols)}"


@flow(name="trading-day", flow_run_name=_run_name, task_runner=TWO_AT_A_TIME)
@independent_of_api
def trading_day(
    symbols: list[str] | None = None,
    date: dt.date | None = None,
    feed: str | None = None,
    calendar: str | None = None,
    open_before: str | None = None,
    close_after: str | None = None,
) -> Ledger | Any:
    """Record the exchange's day `date` (by default today in its time zone), archive what is left of it, and close it.

    What is not given comes from the settings, so that several markets can be recorded by one machine.

    Ends as `Skipped` if the exchange is closed that day. Raises DayShort if too little of the day was recorded, by this
    run and all others together; at the end, raises what `archive_batches` raises about other days.

    Args:
        symbols: The symbols, as the feed spells them, such as AAPL or BINANCE:BTCUSDT. Empty: TAPE_SYMBOLS.
        date: The exchange's day, YYYY-MM-DD. Empty: today in the exchange's time zone, as a schedule needs it.
        feed: The feed, such as finnhub or coinbase. Empty: TAPE_FEED.
        calendar: The exchange's ISO 10383 code, such as XNYS or XHKG, or 24/7. Empty: TAPE_CALENDAR.
        open_before: How long before the open to begin, such as 1m or 5h30m. Empty: TAPE_OPEN_BEFORE.
        close_after: How long after the close to end, such as 5m or 4h. Empty: TAPE_CLOSE_AFTER.
    """
    settings = settings_to_write(
        symbols=symbols, feed=feed, calendar=calendar, open_before=open_before, close_after=close_after
    )
    check_feed(settings)
    day = date or today(settings.calendar, time.time_ns())
    hours = trading_day_for(
        day, settings.calendar, before_open_ns=settings.open_before_ns, after_close_ns=settings.close_after_ns
    )
    if hours is None:
        return _skipped(f"{settings.calendar} does not trade on {day}")
    note_run(Store(settings.data_dir).prepare())
    add_tags(settings.feed, settings.calendar, str(day))
    wanted = request_for(settings, hours.open_ns, hours.close_ns)
    page = RunPage(settings, wanted, f"day-{settings.feed}-{settings.calendar}-{day}", f"{settings.calendar} {day}")
    if time.time_ns() >= hours.close_ns:
        return _judged_late(settings, day, wanted, page)
    make_ready(settings)
    _wait_until(hours.open_ns)
    session = session_for(settings, wanted, time.time_ns())
    done = recorded(settings, wanted, session, page, wait_for_key=True)
    left = _archive_what_is_left()
    subflow(close_day, date=day)
    reason = short_of(done.account, settings.min_coverage)
    if reason is not None:
        emit_of_short_day(str(day), reason, done.account)
        page.write(done.ledger, reason, done.account.trades)
        raise DayShort(f"{day}: {reason} ({done.summary})")
    if left is not None:
        raise left
    return completed(done.ledger, done.summary)


def _archive_what_is_left() -> Exception | None:
    """Return what went wrong: errors of other days must not affect this one before its end."""
    try:
        subflow(archive_batches)
    except Exception as error:
        return error
    return None


def short_of(account: Account, least: float) -> str | None:
    """Return why the account falls short of a recorded day, or None; `least` is a share from 0 to 1."""
    coverage = account.coverage
    if not account.trades:
        return f"no trades were received in {format_duration(account.request.end_ns - account.request.start_ns)}"
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
    """Return the exchange's date at that time (UTC ns), which can differ from UTC's or this machine's."""
    return dt.date.fromisoformat(date_in(exchange_zone(calendar), now_ns))


def _skipped(reason: str) -> Any:
    get_run_logger().info("%s", reason)
    return Completed(name="Skipped", message=reason)


def _judged_late(settings: Settings, day: dt.date, wanted: Request, page: RunPage) -> Any:
    """End a run that began after the day was over: it succeeds only if other runs recorded the day."""
    store = Store(settings.data_dir).prepare()
    emit_of_recovered(recover_sessions(store.root))
    account = account_of(store, wanted)
    reason = short_of(account, settings.min_coverage)
    page.write(failed=reason, trades=account.trades)
    if reason is not None:
        emit_of_short_day(str(day), reason, account)
        raise DayShort(f"{day} was over before this run began, and had not been recorded: {reason}")
    return _skipped(f"{day} was over before this run began, and had been recorded")


def _wait_until(start_ns: int) -> None:
    """Sleep until then; a schedule may fire before the configured start of the day."""
    while (left_s := (start_ns - time.time_ns()) / NS_PER_S) > 0:
        get_run_logger().info("recording starts in %.0f s", left_s)
        time.sleep(min(left_s, 300))
