"""Closes days: merges their batches into one file per feed, uploads it, and applies the retention settings.

It can run again at any time, for any day: a day whose file already has all of its batches is left alone, and a day with
a new batch is merged again. So no day needs to wait for batches that are still in progress.
"""

import datetime as dt
import time
from dataclasses import dataclass
from functools import partial
from zoneinfo import ZoneInfo

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from flows.archive_batches import TWO_AT_A_TIME, finish, send_records
from flows.artifacts import show_retained
from flows.bucket import bucket_of
from flows.orchestrator import call, is_alone
from flows.runs import independent_of_api, note_run
from flows.settings import Settings, settings_to_write
from tasks.archive.catalog import Catalog
from tasks.errors import CorruptionError, RecorderError, TerminalError
from tasks.market.hours import date_in, exchange_zone
from tasks.merge.task import merge
from tasks.records.manifest import Day
from tasks.records.names import day_folder, feed_and_date
from tasks.retain.rule import Gone, Kept, Remote, Retained, Rule
from tasks.retain.task import retain
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.upload.object_store import object_matches, remove_objects


@dataclass(frozen=True, slots=True)
class Closing:
    """The days closed in this run, the files that the retention rule removed, and those it kept although due."""

    days: tuple[Day, ...]
    removed: tuple[Gone, ...]
    kept: tuple[Kept, ...]


class NotClosed(TerminalError):
    """Raised if days could not be closed or uploaded, or if files are wrong, with a line for each.

    `closing` has what was done anyway.
    """

    def __init__(self, message: str, closing: Closing) -> None:
        super().__init__(message)
        self.closing = closing


def _run_name() -> str:
    date = flow_run.parameters.get("date")
    return f"close {date}" if date else f"close days before {dt.datetime.now(dt.UTC):%Y-%m-%d}"


@flow(name="close-day", flow_run_name=_run_name, task_runner=TWO_AT_A_TIME)
@independent_of_api
def close_day(date: dt.date | None = None) -> Closing:
    """Close one day, or every day that is over; upload closed days; apply the retention rule.

    A day that cannot be closed does not stop the others. Raises NotClosed at the end if there was one.

    Args:
        date: The day to close, YYYY-MM-DD. Empty: every day that is over and not closed yet.
    """
    settings = settings_to_write()
    store = Store(settings.data_dir).prepare()
    note_run(store)
    days, reasons = _merged(settings, _to_close(store, settings, date, time.time_ns()))
    reasons += _sent(settings, store, date)
    try:
        retained = _retained(settings)
    except RecorderError as error:
        retained, reasons = Retained(), [*reasons, f"the retention rule was not applied: {error}"]
    closing = Closing(tuple(days), retained.removed, retained.kept)
    reasons += [f"{each.file}: {each.reason}" for each in retained.kept if each.wrong]
    if reasons:
        raise NotClosed("\n".join(reasons), closing)
    if not days:
        get_run_logger().info("there is no day to close" if date is None else f"nothing is archived for {date}")
    return closing


def anything_to_close(settings: Settings, date: dt.date | None, now_ns: int) -> bool:
    """Whether `close_day` has something to do at that time (UTC ns); checked before a server is started for it."""
    store, bucket = Store(settings.data_dir), bucket_of(settings)
    rule = Rule(settings.keep_batches_for_ns, settings.keep_local_for_ns, settings.keep_free_bytes)
    if not store.root.is_dir():
        return False
    to_close = not rule.is_off or _to_close(store, settings, date, now_ns)
    return bool(to_close or (bucket is not None and _to_send(store, bucket)))


def _to_close(store: Store, settings: Settings, date: dt.date | None, now_ns: int) -> list[tuple[str, str]]:
    """Return (feed, date) of the days to close: those of `date`, or every day that is over and not closed."""
    folders = sorted(store.archive.glob(day_folder("*", str(date or "*"))))
    found = [feed_and_date(path) for path in folders]
    if date is not None:
        return found
    # Symbols that never close have UTC days, the others have the exchange's.
    today = min(date_in(zone, now_ns) for zone in (exchange_zone(settings.calendar), ZoneInfo("UTC")))
    catalog = Catalog(store)
    return [(feed, day) for feed, day in found if day < today and not _is_closed(catalog, feed, day)]


def _is_closed(catalog: Catalog, feed: str, day: str) -> bool:
    try:
        return catalog.is_closed(feed, day)
    except CorruptionError:
        return False  # The merge reports what is wrong.


def _merged(settings: Settings, wanted: list[tuple[str, str]]) -> tuple[list[Day], list[str]]:
    """Merge these days; return those that were closed, and why others were not."""
    days, reasons = list[Day](), list[str]()
    for feed, day in wanted:
        try:
            merged = call(merge, settings.data_dir, feed, day)
        except RecorderError as error:
            reasons.append(f"{feed} {day} is not closed: {error}")
        else:
            days += [] if merged is None else [merged]
    return days, reasons


def _to_send(store: Store, bucket: Bucket) -> list[tuple[str, str]]:
    """Return (feed, date) of the closed days that the bucket does not have."""
    return Catalog(store).days_awaiting_upload(bucket.place)


def _sent(settings: Settings, store: Store, date: dt.date | None) -> list[str]:
    """Upload the closed days that the bucket does not have; return why some failed."""
    bucket = bucket_of(settings)
    lacking = [] if bucket is None else _to_send(store, bucket)
    wanted = [(feed, day) for feed, day in lacking if date is None or day == date.isoformat()]
    sent = [(feed, day, send_records(settings, [], [(feed, day)])) for feed, day in wanted]
    return [f"{feed} {day}: {reason}" for feed, day, steps in sent if (reason := finish([], steps)) is not None]


def _retained(settings: Settings) -> Retained:
    rule = Rule(settings.keep_batches_for_ns, settings.keep_local_for_ns, settings.keep_free_bytes)
    if rule.is_off:
        return Retained()
    bucket = bucket_of(settings)
    remote = None
    if bucket is not None:
        remote = Remote(str(bucket), bucket.place, partial(object_matches, bucket), partial(remove_objects, bucket))
    retained: Retained = call(retain, settings.data_dir, rule, remote)
    if retained.removed and not is_alone():
        show_retained(retained)
    return retained
