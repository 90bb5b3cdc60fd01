"""What the page of a data folder shows: its running sessions, and how its last session ended."""

import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from flows.settings import Settings
from tape.dashboard.hub import Hub
from tape.dashboard.live import LiveSession
from tape.dashboard.series import ANY_LAG
from tape.dashboard.server import Offer
from tape.dashboard.wording import day_and_clock
from tape.watched_symbols import change_watched
from tasks.errors import RecorderError
from tasks.records.sessions import RECORD_FILE, is_recording, record_of
from tasks.spans import Span
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket

if TYPE_CHECKING:
    from tape.dashboard.archive import Archive


def offer_of(folder: Path, settings: Settings, bucket: Bucket | None, *, metrics: bool = False) -> Offer:
    """Return what the page shows of this data folder."""
    store, lags_ns = Store(folder), _lags_ns(settings)

    def running() -> tuple[str, ...]:
        # A recorder writes its record before it lets go of its lock: with a record, the session has ended. Of a year's
        # sessions nearly all have one, and then no lock has to be tried.
        folders = sorted(store.sessions.glob("*"))
        return tuple(path.name for path in folders if not (path / RECORD_FILE).exists() and is_recording(path))

    def change(session: str, action: str, symbols: Sequence[str]) -> str:
        return "; ".join(line.removeprefix(f"{session}: ") for line in change_watched(action, symbols, session, store))

    return Offer(
        hub=lambda: Hub(running, partial(LiveSession, store, lags_ns=lags_ns), follow_all=metrics),
        change=change,
        last_end=lambda: _last_end(store),
        archive=cache(partial(_archive, store, settings.calendar, bucket)),
        has_bucket=bucket is not None,
        metrics=metrics,
    )


def _lags_ns(settings: Settings) -> Span:
    """Return the lags (ns) that validation will accept: what it will reject is not shown in the meantime."""
    age_ns, ahead_ns = settings.max_event_age_ns, settings.max_event_ahead_ns
    return ANY_LAG[0] if ahead_ns is None else -ahead_ns, ANY_LAG[1] if age_ns is None else age_ns


def _archive(store: Store, calendar: str, bucket: Bucket | None) -> "Archive":
    # Imported here because it takes a second, which whoever watches a running session need not wait for.
    from tape.dashboard.archive import Archive

    return Archive(store, calendar, time.time_ns, bucket)


def _last_end(store: Store) -> str:
    for folder in sorted(store.sessions.glob("*"), reverse=True):
        try:
            if (record := record_of(folder)) is not None:
                return (
                    f"The last session, {record.session}, ended {day_and_clock(record.ended_ns)} UTC: {record.outcome}."
                )
        except RecorderError as error:
            return f"The last session cannot be read: {error}"
    return f"Nothing has been recorded in {store.root} yet."
