"""How is one time-boxed session recorded, its batches archived while it still records?"""

import os
import time
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from flows.bucket_check import warn_of_bucket
from flows.deadline import deadline_for, key_of
from flows.process_batches import (
    TWO_AT_A_TIME,
    NotArchived,
    Steps,
    archive,
    finish,
    ledger_of,
    send_records,
    show,
    waiting,
)
from flows.settings import Settings, load_settings
from tasks.batch import BatchName, session_name
from tasks.capture.task import CaptureRequest, capture, lanes_for, recover_sessions
from tasks.errors import TerminalError
from tasks.ledger import Ledger
from tasks.market.hours import exchange_zone, trading_hours
from tasks.store import Store

_RECORD_FOR = "5m"


class SessionFailed(TerminalError):
    """The session did not do what was asked of it; `ledger` says how far it came."""

    def __init__(self, message: str, ledger: Ledger) -> None:
        super().__init__(message)
        self.ledger = ledger


def _run_name() -> str:
    symbols: list[str] = flow_run.parameters.get("symbols") or []
    named = ", ".join(symbols[:3]) + (f" and {len(symbols) - 3} more" if len(symbols) > 3 else "")
    return f"record {named or 'the symbols of the settings'}"


@flow(
    name="record-session",
    flow_run_name=_run_name,
    task_runner=TWO_AT_A_TIME,
)
def record_session(
    symbols: list[str] | None = None,
    record_for: str | None = None,
    until: str | None = None,
    feed_url: str | None = None,
    data_dir: Path | None = None,
    batch_for: str | None = None,
    lanes: str | None = None,
) -> Ledger:
    """Record these symbols for a duration ("5m") or until a time ("16:00", or ISO 8601 with an offset).

    Records five minutes where neither is given; what else is not given comes from the settings. Gives the ledger.
    Raises SettingsError before anything starts, SessionFailed where the recording failed or its ledger does not
    balance, NotArchived where a batch could not be archived: it is then recorded, and `process_batches` takes it up.
    """
    settings = load_settings(symbols=symbols, feed_url=feed_url, data_dir=data_dir, batch_for=batch_for, lanes=lanes)
    # A form of Prefect's UI sends an empty text for a field that is left blank.
    request = request_for(settings, record_for or (None if until else _RECORD_FOR), until or None, time.time_ns())
    store = Store(settings.data_dir).prepare()
    warn_of_bucket(settings, get_run_logger())
    recover_sessions(store.root)
    futures: dict[BatchName, Steps] = {}

    def begin(name: BatchName) -> None:
        futures[name] = archive(name, settings)

    record = capture(request, key_of(settings), begin, settings.symbols_variable)
    for name in waiting(store, settings):
        if name.session == record.session and name not in futures:
            begin(name)
    records = send_records(settings, [record.session])
    return closed(store, record.session, settings, finish(list(futures.values()), records))


def closed(store: Store, session: str, settings: Settings, unarchived: str | None) -> Ledger:
    """The ledger of a session that has ended, shown in the UI; `unarchived` says why some batches are not archived.

    Raises SessionFailed or NotArchived where it is not as it should be.
    """
    ledger = ledger_of(store, session, settings)
    if ledger is None:
        raise TerminalError(f"{session} has no record yet: its recorder still runs")
    show(ledger)
    record = ledger.record
    if record.outcome in ("failed", "killed"):
        also = "" if unarchived is None else f"; {unarchived}"
        raise SessionFailed(f"{session} {record.outcome}: {record.error}{also}", ledger)
    if unarchived is not None:
        raise NotArchived(unarchived, [ledger])
    if not ledger.balances:
        raise SessionFailed(f"{session} does not balance: {'; '.join(ledger.imbalances())}", ledger)
    get_run_logger().info("%s balances: %s trades archived", session, f"{ledger.trades.archived:,}")
    return ledger


def request_for(settings: Settings, record_for: str | None, until: str | None, now_ns: int) -> CaptureRequest:
    """What the recorder is asked to do. Raises SettingsError where something that it needs is missing or wrong."""
    deadline_ns = deadline_for(settings, record_for, until, now_ns)
    return CaptureRequest(
        session=session_name(now_ns, os.urandom),
        data_dir=settings.data_dir.absolute(),
        feed_url=settings.feed_url,
        symbols=settings.symbols,
        started_ns=now_ns,
        deadline_ns=deadline_ns,
        market_hours=trading_hours(now_ns, deadline_ns, settings.calendar),
        zone=exchange_zone(settings.calendar).key,
        lanes=lanes_for(settings.symbols, settings.lanes),
        batch_for_ns=settings.batch_for_ns,
        batch_bytes=settings.batch_bytes,
        queue_bytes=settings.queue_bytes,
        disk_reserve_bytes=settings.disk_reserve_bytes,
    )
