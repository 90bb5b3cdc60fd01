"""The bucket from the settings, and whether it is writable; checked before a session begins."""

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from flows.settings import Settings
from tasks.errors import RecorderError, SettingsError, TerminalError, TransientError
from tasks.upload.bucket import Bucket
from tasks.upload.probe import check_writable

_WITHIN_S = 8.0
_STEP_WITHIN_S = 4.0


def bucket_of(settings: Settings) -> Bucket | None:
    """Return where uploads go, or None if no bucket is set."""
    if settings.s3_bucket is None:
        return None
    return Bucket(
        name=settings.s3_bucket,
        prefix=settings.s3_prefix,
        endpoint_url=settings.s3_endpoint_url,
        region=settings.s3_region,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=settings.s3_secret_access_key,
        session_token=settings.s3_session_token,
        profile=settings.s3_profile,
        addressing=settings.s3_addressing,
        storage_class=settings.s3_storage_class,
        sse=settings.s3_sse,
        ca_bundle=settings.s3_ca_bundle,
    )


def refuse_wrong_bucket(settings: Settings, warn: Callable[[str], object]) -> None:
    """Raise SettingsError if the store refuses the settings; if it does not answer, only warn."""
    trouble = bucket_trouble(settings)
    if isinstance(trouble, TerminalError):
        raise SettingsError(str(trouble))
    if trouble is not None:
        warn(f"{trouble}; recording starts anyway")


def warn_of_bucket(settings: Settings, log: Any) -> None:
    """Log why the bucket is not writable, from a thread: this must neither delay a recording nor end it."""

    def look() -> None:
        trouble = bucket_trouble(settings)
        if trouble is not None:
            log.error("%s; recordings stay on this machine until `tape archive` can upload them", trouble)

    threading.Thread(target=contextvars.copy_context().run, args=(look,), name="bucket check", daemon=True).start()


def bucket_trouble(settings: Settings) -> RecorderError | None:
    """Return why the bucket is not writable, within seconds; None if it is, or if no bucket is set."""
    bucket = bucket_of(settings)
    if bucket is None:
        return None
    # One attempt: a refusal will be repeated, and a store that does not answer is only warned of.
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
