"""Records one session of limited duration, and archives its batches while it records."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict, Field

from flows.archive_batches import (
    TWO_AT_A_TIME,
    BatchFutures,
    NotArchived,
    archive,
    finish,
    ledger_of,
    send_records,
    waiting,
)
from flows.bucket import warn_of_bucket
from flows.deadline import deadline_for, key_of
from flows.events import emit_of_ledger, emit_of_recovered, emit_of_uploads, recorders_reported
from flows.orchestrator import call, completed
from flows.run_page import RunPage, summary
from flows.runs import add_tags, independent_of_api, note_run
from flows.settings import Settings, load_settings, settings_to_write
from flows.stopping import heed_signals_again
from flows.surroundings import check_feed, exposures
from tasks.capture.request import CaptureRequest
from tasks.capture.routes import lanes_for
from tasks.capture.task import capture, recover_sessions
from tasks.errors import SettingsError, TerminalError
from tasks.market.hours import exchange_zone, trading_hours
from tasks.records.ledger import Ledger, Request
from tasks.records.names import BatchName, session_name
from tasks.records.requests import this_process
from tasks.records.trade import NS_PER_S
from tasks.storage.store import Store
from tasks.verify.account import Account, account_of


class RecordFor(BaseModel):
    """Record for a duration."""

    model_config = ConfigDict(extra="forbid", title="for a duration")
    record_for: str = Field(default="5m", min_length=1, description="How long to record, such as 90s, 5m, or 6h30m.")


class RecordUntil(BaseModel):
    """Record until a time."""

    model_config = ConfigDict(extra="forbid", title="until a time")
    until: str = Field(
        min_length=1, description="When to end: HH:MM by the worker's clock, or ISO 8601 with an offset."
    )


_FIVE_MINUTES = RecordFor()


class SessionFailed(TerminalError):
    """Raised if a session was not recorded as requested; `ledger` shows how far it came."""

    def __init__(self, message: str, ledger: Ledger) -> None:
        super().__init__(message)
        self.ledger = ledger


@dataclass(frozen=True, slots=True)
class Recorded:
    """The result of a run: its session's ledger, and the account of what the run itself requested."""

    ledger: Ledger
    account: Account

    @property
    def summary(self) -> str:
        """What was recorded, in one line."""
        return summary(self.account.trades, len(self.account.request.current), self.account.coverage)


def symbol_count(symbols: Sequence[str]) -> str:
    """Return how many symbols these are, as text."""
    return f"{len(symbols):,} symbol{'' if len(symbols) == 1 else 's'}"


def _run_name() -> str:
    """Name the run after its symbols: by name if there are few."""
    try:
        symbols = flow_run.parameters.get("symbols") or load_settings().symbols
    except SettingsError:  # The flow reports what is wrong, and where.
        symbols = ()
    return f"record {', '.join(symbols) if 0 < len(symbols) <= 3 else symbol_count(symbols)}"


@flow(
    name="record-session",
    flow_run_name=_run_name,
    task_runner=TWO_AT_A_TIME,
)
@independent_of_api
def record_session(
    symbols: list[str] | None = None,
    end: RecordFor | RecordUntil = _FIVE_MINUTES,
    batch_for: str | None = None,
    lanes: str | None = None,
) -> Ledger | Any:
    """Record one session of these symbols, and archive its batches while it records.

    Returns the ledger. Raises SettingsError before anything starts, SessionFailed if the recording failed or its ledger
    does not balance, and NotArchived if a batch could not be archived: it is then recorded, and `archive_batches`
    archives it later.

    Args:
        symbols: The symbols, as the feed spells them, such as AAPL or BINANCE:BTCUSDT. Empty: TAPE_SYMBOLS.
        end: When the session ends: after a duration, or at a time.
        batch_for: Seal a batch at this age, such as 5m. Empty: TAPE_BATCH_FOR.
        lanes: How many queues, writers, and journals, or `ticker` for one per symbol. Empty: TAPE_LANES.
    """
    settings = settings_to_write(symbols=symbols, batch_for=batch_for, lanes=lanes)
    record_for, until = (end.record_for, None) if isinstance(end, RecordFor) else (None, end.until)
    deadline_for(settings, record_for, until, time.time_ns())  # Report errors before anything starts.
    check_feed(settings)
    note_run(Store(settings.data_dir).prepare())
    add_tags(settings.feed)
    make_ready(settings)
    now_ns = time.time_ns()
    deadline_ns = deadline_for(settings, record_for, until, now_ns)
    wanted = request_for(settings, now_ns, deadline_ns)
    session = session_for(settings, wanted, now_ns)
    page = RunPage(settings, wanted, f"session-{session.session}", f"{settings.feed}, {symbol_count(wanted.symbols)}")
    done = recorded(settings, wanted, session, page)
    return completed(done.ledger, done.summary)


def recorded(
    settings: Settings, wanted: Request, session: CaptureRequest, page: RunPage, *, wait_for_key: bool = False
) -> Recorded:
    """Record and archive what a run wants, in `session` if no recorder runs yet, and return the result.

    `page` is kept up to date meanwhile. Raises SessionFailed if it was not recorded as requested, and NotArchived if a
    batch could not be archived.
    """
    store = Store(settings.data_dir)
    warn_of_bucket(settings, get_run_logger())
    for exposure in exposures(settings):
        get_run_logger().warning("%s", exposure)
    heed_signals_again()
    futures: dict[BatchName, BatchFutures] = {}

    def begin(name: BatchName) -> None:
        futures[name] = archive(name, settings)

    with recorders_reported(settings), page.kept_up():
        served_in = call(capture, session, wanted, key_of(settings), begin, settings.symbols_variable, wait_for_key)
    for name in waiting(store, settings):
        if name.session == served_in and name not in futures:
            begin(name)
    unarchived = finish(list(futures.values()), send_records(settings, [served_in]))
    emit_of_uploads(settings, unarchived)
    return judged(store, served_in, wanted, settings, page, unarchived)


def make_ready(settings: Settings) -> None:
    """Do the slow preparations before a session's time starts to count."""
    emit_of_recovered(call(recover_sessions, Store(settings.data_dir).prepare().root))
    trading_hours(time.time_ns(), time.time_ns() + 1, settings.calendar)  # Loads the calendar.


def judged(
    store: Store, session: str, wanted: Request, settings: Settings, page: RunPage, unarchived: str | None
) -> Recorded:
    """Show a run's result in the UI and return it; `unarchived` says why some batches are not archived.

    Raises SessionFailed or NotArchived if it is not as it should be.
    """
    ledger = ledger_of(store, session, settings)
    if ledger is None:
        raise TerminalError(f"{session} has neither a record nor a recorder; run `tape archive`")
    for law in ledger.imbalances():
        get_run_logger().error("%s: %s", session, law)
    emit_of_ledger(ledger)
    mine = next((each for each in ledger.record.requests if each.id == wanted.id), wanted)
    found = Recorded(ledger, account_of(store, mine))
    reason = _not_recorded(found)
    unbalanced = None if ledger.balances else f"the ledger does not balance: {'; '.join(ledger.imbalances())}"
    page.write(ledger, reason or unarchived or unbalanced, found.account.trades)
    if reason is not None:
        also = "" if unarchived is None else f"; {unarchived}"
        raise SessionFailed(f"{session}: {reason}{also} ({found.summary})", ledger)
    if unarchived is not None:
        raise NotArchived(unarchived, [ledger])
    if not ledger.balances:
        raise SessionFailed(f"{session} does not balance: {'; '.join(ledger.imbalances())}", ledger)
    get_run_logger().info("%s balances: %s trades archived", session, f"{ledger.trades.archived:,}")
    return found


def _not_recorded(found: Recorded) -> str | None:
    """Return why that is not what was requested, or None. Silence is fine: nobody can make a market trade."""
    record, trades, request = found.ledger.record, found.ledger.trades, found.account.request
    if record.outcome in ("failed", "killed"):
        return f"{record.outcome}: {record.error}"
    gaps = found.account.coverage.gaps
    if not found.account.coverage.received_ns:
        return f"never connected: {gaps[-1].reason if gaps else 'it was stopped first'}"
    if trades.received and not trades.valid:
        return f"none of the {trades.received:,} trades received were valid; see quarantine/ for the reasons"
    if record.outcome == "stopped" and request.withdrawn_ns is None and record.ended_ns < request.until_ns:
        short_s = (request.until_ns - record.ended_ns) / NS_PER_S
        return f"the recorder was stopped {short_s:,.0f} s before the requested end"
    return None


def request_for(settings: Settings, due_ns: int, until_ns: int) -> Request:
    """Return what this run wants, from `due_ns` to `until_ns` (UTC ns); a late start counts as not recorded."""
    return Request(
        id=f"{time.time_ns()}-{os.urandom(4).hex()}",
        owner=flow_run.name or "tape",
        symbols=settings.symbols,
        start_ns=due_ns,
        until_ns=until_ns,
        hours=trading_hours(due_ns, until_ns, settings.calendar),
        process=this_process(),
        feed=settings.feed,
    )


def session_for(settings: Settings, wanted: Request, begun_ns: int) -> CaptureRequest:
    """Return the session that a new recorder would record for this run, which began at `begun_ns` (UTC ns)."""
    return CaptureRequest(
        session=session_name(begun_ns, os.urandom),
        data_dir=settings.data_dir.absolute(),
        feed=settings.feed,
        feed_url=settings.feed_address,
        symbols=wanted.symbols,
        started_ns=begun_ns,
        deadline_ns=wanted.until_ns,
        market_hours=wanted.hours,
        zone=exchange_zone(settings.calendar).key,
        lanes=lanes_for(settings.feed, wanted.symbols, settings.lanes),
        batch_for_ns=settings.batch_for_ns,
        batch_bytes=settings.batch_bytes,
        queue_bytes=settings.queue_bytes,
        disk_reserve_bytes=settings.disk_reserve_bytes,
        quarantine_bytes=settings.quarantine_bytes,
    )
