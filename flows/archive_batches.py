"""Archives every sealed batch that is not archived yet: for reruns, recovery, and the safety net.

Every step can run again: what is already done is found on disk, whoever did it.
"""

from typing import Any

from prefect import flow, get_run_logger
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from flows.artifacts import show_ledgers
from flows.bucket import bucket_of
from flows.events import emit_of_ledger, emit_of_recovered, emit_of_uploads
from flows.orchestrator import call, submit
from flows.runs import independent_of_api, note_run
from flows.settings import Settings, settings_to_write
from tasks.archive.catalog import Catalog
from tasks.archive.encodings import Encoding
from tasks.capture.recovery import killed_sessions
from tasks.capture.task import recover_sessions
from tasks.compress.task import compress
from tasks.errors import RecorderError, TerminalError
from tasks.records.ledger import Ledger
from tasks.records.names import BatchName
from tasks.records.sessions import is_recording
from tasks.storage.store import Store
from tasks.upload.task import upload, upload_day, upload_session
from tasks.upload.uploads import sessions_awaiting_upload
from tasks.validate.schema import Limits
from tasks.validate.task import validate
from tasks.verify.account import ledger_for

# Two batches at a time: Polars and Parquet already use every core, and the recorder needs one.
TWO_AT_A_TIME: Any = ThreadPoolTaskRunner(max_workers=2)
_UPLOAD_FIRST_WAIT_S = 1.0


# The steps of one batch, in order.
BatchFutures = list[PrefectFuture[Any]]


class NotArchived(TerminalError):
    """Raised if batches could not be archived; they stay where they are, and a later run tries again.

    `ledgers` show how far each session came.
    """

    def __init__(self, message: str, ledgers: list[Ledger]) -> None:
        super().__init__(message)
        self.ledgers = ledgers


class NotWhole(TerminalError):
    """Raised if sessions are fully archived but do not balance; `ledgers` has every session seen."""

    def __init__(self, message: str, ledgers: list[Ledger]) -> None:
        super().__init__(message)
        self.ledgers = ledgers


@flow(name="archive-batches", task_runner=TWO_AT_A_TIME)
@independent_of_api
def archive_batches() -> list[Ledger]:
    """Archive every sealed batch that is not archived yet, of any session, and return those sessions' ledgers.

    Sessions whose recorder was killed are closed first, so that their journaled trades are included. Raises NotArchived
    if a batch could not be archived, and NotWhole if a ledger does not balance, both after archiving what is possible.
    """
    settings = settings_to_write()
    store = Store(settings.data_dir).prepare()
    note_run(store)
    recovered = call(recover_sessions, store.root)
    emit_of_recovered(recovered)
    names = waiting(store, settings)
    get_run_logger().info("%d batches to archive", len(names))
    batches = [archive(name, settings) for name in names]
    reason = finish(batches, send_records(settings, sessions_left(settings), days_left(settings)))
    emit_of_uploads(settings, reason)
    sessions = sorted({name.session for name in names} | {record.session for record in recovered})
    # Checked before the ledgers: a session that is neither recording nor waiting now is finished.
    recording = {session for session in sessions if is_recording(store.sessions / session)}
    at_rest = set(sessions) - recording - {name.session for name in waiting(store, settings)}
    ledgers = [ledger for session in sessions if (ledger := ledger_of(store, session, settings)) is not None]
    show_ledgers(ledgers)
    for ledger in ledgers:
        emit_of_ledger(ledger, at_rest=ledger.record.session in at_rest)
    if reason is not None:
        raise NotArchived(reason, ledgers)
    reason = _lost([ledger for ledger in ledgers if ledger.record.session in at_rest])
    if reason is not None:
        raise NotWhole(reason, ledgers)
    return ledgers


def _lost(ledgers: list[Ledger]) -> str | None:
    """Return which of these sessions do not balance, or None.

    In a session that is recording, or that another run is archiving, a batch may be counted in one place and not yet in
    the next; the run that finishes last judges it.
    """
    lost = [f"{each.record.session} does not balance: {'; '.join(each.imbalances())}" for each in ledgers
            if not each.balances]  # fmt: skip
    return "; ".join(lost) or None


def anything_to_archive(store: Store, settings: Settings) -> bool:
    """Whether `archive_batches` has something to do; checked before a server is started for it."""
    return bool(
        store.root.is_dir()
        and (killed_sessions(store) or waiting(store, settings) or sessions_left(settings) or days_left(settings))
    )


def archive(name: BatchName, settings: Settings) -> BatchFutures:
    """Validate, compress, and, if a bucket is set, upload one batch in the background; return these steps."""
    data_dir, batch = settings.data_dir, str(name)
    limits = Limits(settings.max_event_age_ns, settings.max_event_ahead_ns)
    encoding = Encoding(settings.archive_layout, settings.archive_format)
    validated = submit(validate, data_dir, batch, limits)
    compressed = submit(compress, data_dir, batch, encoding, after=[validated])
    bucket = bucket_of(settings)
    if bucket is None:
        return [validated, compressed]
    uploaded = submit(_patient(upload, settings), data_dir, batch, bucket, after=[compressed])
    return [validated, compressed, uploaded]


def send_records(
    settings: Settings, sessions: list[str], days: list[tuple[str, str]] | None = None
) -> list[BatchFutures]:
    """Upload the records of these sessions and the files of these closed days (feed, date), if a bucket is set."""
    bucket = bucket_of(settings)
    if bucket is None:
        return []
    send_session, send_day = _patient(upload_session, settings), _patient(upload_day, settings)
    return [
        *([submit(send_session, settings.data_dir, session, bucket)] for session in sessions),
        *([submit(send_day, settings.data_dir, feed, date, bucket)] for feed, date in days or []),
    ]


def _patient(task: Any, settings: Settings) -> Any:
    """Give an upload task the retries that the settings allow, with growing delays."""
    pauses_s = [min(60.0, _UPLOAD_FIRST_WAIT_S * 2**n) for n in range(settings.upload_retries)]
    return task.with_options(retries=settings.upload_retries, retry_delay_seconds=pauses_s)


def sessions_left(settings: Settings) -> list[str]:
    """Return the ended sessions whose records the bucket, if one is set, has not acknowledged."""
    bucket = bucket_of(settings)
    return [] if bucket is None else sessions_awaiting_upload(Store(settings.data_dir), bucket)


def days_left(settings: Settings) -> list[tuple[str, str]]:
    """Return the closed days (feed, date) whose current files the bucket, if one is set, has not acknowledged."""
    bucket = bucket_of(settings)
    return [] if bucket is None else Catalog(Store(settings.data_dir)).days_awaiting_upload(bucket.place)


def finish(batches: list[BatchFutures], records: list[BatchFutures]) -> str | None:
    """Wait for all steps; return why some batches are not archived or records not uploaded, or None."""
    said = [_unfinished(batches, "batches are not archived"), _unfinished(records, "records are not uploaded")]
    reasons = [each for each in said if each is not None]
    if not reasons:
        return None
    return f"{'; '.join(reasons)}; nothing is lost; run `tape archive` once the cause is fixed"


def _unfinished(all_steps: list[BatchFutures], what: str) -> str | None:
    reasons = [reason for steps in all_steps if (reason := _failure(steps)) is not None]
    return f"{len(reasons)} of {len(all_steps)} {what}: {reasons[0]}" if reasons else None


def _failure(steps: BatchFutures) -> str | None:
    """Return the reason of the first step that failed, or None; later steps fail only because of it."""
    for step in steps:
        step.wait()
        if not step.state.is_completed():
            error = step.state.result(raise_on_failure=False)
            return str(error) if isinstance(error, RecorderError) else str(step.state.message)
    return None


def waiting(store: Store, settings: Settings) -> list[BatchName]:
    """Return the batches that are still in progress: sealed, validated, or archived but not uploaded."""
    names = {*store.sealed_batches(), *store.validated_batches()}
    bucket = bucket_of(settings)
    if bucket is not None:
        # A receipt from a previously configured bucket does not count for this one.
        names.update(Catalog(store).awaiting_upload(bucket.place))
    return sorted(names)


def ledger_of(store: Store, session: str, settings: Settings) -> Ledger | None:
    """Return the ledger of a session so far, or None if nothing is known of the session itself."""
    if (
        not (store.sessions / session / "request.json").exists()
        and not (store.sessions / session / "session.json").exists()
    ):
        return None
    bucket = bucket_of(settings)
    return ledger_for(store, session, None if bucket is None else bucket.place)
