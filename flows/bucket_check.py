"""Can the bucket that is set be written to? Asked before a session, not found out by its first upload."""

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from flows.process_batches import bucket_of
from flows.settings import Settings
from tasks.errors import RecorderError, SettingsError, TerminalError, TransientError
from tasks.upload.task import Bucket, check_writable

_WITHIN_S = 8.0
_STEP_WITHIN_S = 4.0


def refuse_wrong_bucket(settings: Settings, warn: Callable[[str], object]) -> None:
    """Raises SettingsError where the store refuses what the settings say; one that does not answer is warned of."""
    trouble = bucket_trouble(settings)
    if isinstance(trouble, TerminalError):
        raise SettingsError(str(trouble))
    if trouble is not None:
        warn(f"tape: {trouble}; recording does not wait for it")


def warn_of_bucket(settings: Settings, log: Any) -> None:
    """Log what keeps the bucket from being written to, from a thread: it must neither delay a recording nor end it."""

    def look() -> None:
        trouble = bucket_trouble(settings)
        if trouble is not None:
            log.error("%s; what is recorded stays on this machine until `tape archive` can upload it", trouble)

    threading.Thread(target=contextvars.copy_context().run, args=(look,), name="bucket check", daemon=True).start()


def bucket_trouble(settings: Settings) -> RecorderError | None:
    """What keeps the bucket from being written to, known within seconds; None where nothing does, or none is set."""
    bucket = bucket_of(settings)
    if bucket is None:
        return None
    # One attempt: a refusal comes again, and a store that is away is only warned of.
    asked = replace(bucket, max_attempts=1, connect_timeout_s=_STEP_WITHIN_S, read_timeout_s=_STEP_WITHIN_S)
    found: Future[RecorderError | None] = Future()
    threading.Thread(target=_ask, args=(asked, found), name="bucket", daemon=True).start()
    try:
        return found.result(_WITHIN_S)
    except TimeoutError:
        return TransientError(f"{bucket}: no answer within {_WITHIN_S:g} s; check the network")


def _ask(bucket: Bucket, found: "Future[RecorderError | None]") -> None:
    try:
        check_writable(bucket)
    except RecorderError as error:
        found.set_result(error)
    except BaseException as error:
        found.set_exception(error)
    else:
        found.set_result(None)
