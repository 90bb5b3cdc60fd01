"""The command `tape doctor`: checks everything a recording needs, and gives the next step for each problem."""

import datetime as dt
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from flows.deadline import key_of, key_setting
from flows.orchestrator import NoOrchestrator, check, is_open
from flows.settings import Settings
from flows.surroundings import check_feed, exposures
from tape.cli import doctor_service
from tape.cli.finding import Finding
from tasks.address import address_of
from tasks.errors import RecorderError, SettingsError, TransientError
from tasks.feeds.registry import feed_named
from tasks.market.hours import exchange_zone, is_covered, next_open
from tasks.storage.store import unfinished, write_whole

_WITHIN_S = 5.0
# Longer than the store client's own attempts take if it refuses or cannot be found.
_GIVE_UP_S = 12.0
_NTP_EPOCH_S = 2_208_988_800
_CLOCK_OFF_S = 1.0
_CALENDAR_AHEAD_DAYS = 45
_LOG = "check its log"


def examine(settings: Settings) -> list[Finding]:
    """Check everything, in the order in which a recording needs it. Leaves no lasting change.

    If nothing answers, this takes seconds, not minutes: network checks run in parallel, each with a time limit.
    """
    import prefect.main  # noqa: F401 - two threads that import it at the same time can deadlock
    from prefect.settings import get_current_settings

    no_server = get_current_settings().api.url is None
    asked = {
        "feed": bounded(
            "feed", lambda: _feed(settings), f"check the network and name resolution of {settings.feed_address}"
        ),
        "clock": bounded("clock", _clock, "check the network and name resolution"),
        "schedules": bounded("schedules", _schedules, _LOG),
        "worker": bounded("worker", lambda: _answered("worker", doctor_service.worker), _LOG),
        "deployments": bounded("deployments", lambda: _answered("deployments", doctor_service.deployments), _LOG),
        "alarms": bounded("alarms", lambda: _answered("alarms", lambda: doctor_service.automations(settings)), _LOG),
        "runs": bounded("runs", lambda: _answered("runs", lambda: doctor_service.stuck_runs(settings)), _LOG),
        "prefect": bounded("prefect", _prefect, "check PREFECT_API_URL"),
        "store": bounded("object store", lambda: _object_store(settings), "check the network and TAPE_S3_ENDPOINT_URL"),
    }
    return [
        _key(settings),
        asked["feed"](),
        Finding("carries", "ok", f"{settings.feed}: {feed_named(settings.feed).carries}"),
        asked["clock"](),
        _data_folder(settings.data_dir),
        *(Finding("exposed", "note", exposure) for exposure in exposures(settings)),
        _disk(settings),
        _calendar(settings, time.time_ns()),
        asked["prefect"](),
        *([] if no_server else [asked[name]() for name in ("worker", "deployments", "schedules", "alarms", "runs")]),
        *([] if no_server else [doctor_service.recording(settings)]),
        doctor_service.waiting(settings),
        asked["store"](),
    ]


def _answered(name: str, look: Callable[[], Finding]) -> Finding:
    """Look at the server; where it cannot be asked, that is what was found."""
    try:
        return look()
    except SettingsError as error:
        return Finding(name, "wrong", str(error))
    except Exception as error:
        return Finding(name, "wrong", f"the server did not answer ({type(error).__name__}): {_LOG}")


def bounded(name: str, look: Callable[[], Finding], advice: str, within_s: float = _GIVE_UP_S) -> Callable[[], Finding]:
    """Start a check that may hang and return a function that waits for it; name resolution has no time limit.

    It runs in a daemon thread, so that a check that hangs does not keep the command from exiting.
    """
    found: Future[Finding] = Future()

    def work() -> None:
        try:
            found.set_result(look())
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=work, name=f"doctor: {name}", daemon=True).start()
    ends_s = time.monotonic() + within_s

    def wait() -> Finding:
        try:
            return found.result(max(0.0, ends_s - time.monotonic()))
        except TimeoutError:
            return Finding(name, "wrong", f"no answer within {within_s:g} s: {advice}")

    return wait


def _key(settings: Settings) -> Finding:
    try:
        key_of(settings)
    except SettingsError as error:
        return Finding("key", "wrong", str(error))
    if (name := key_setting(settings)) is None:
        return Finding("key", "ok", f"{settings.feed} needs no key")
    # A feed allows a key one connection, which a recorder may need: what the last one was told is all that is known.
    return doctor_service.known_of_key(settings, name)


def _feed(settings: Settings) -> Finding:
    """Reach the feed as a recorder does (name resolution, proxy, TLS), but without using up its one connection."""
    from tasks.capture.feed import reach

    try:
        check_feed(settings)
        return Finding("feed", "ok", f"{reach(settings.feed_address, _WITHIN_S)} can be reached")
    except SettingsError as error:
        return Finding("feed", "wrong", str(error))
    except TransientError as error:
        where = address_of(settings.feed_address)
        return Finding(
            "feed", "wrong", f"{where} cannot be reached ({error}): check the network, the proxy, and SSL_CERT_FILE"
        )


def _clock() -> Finding:
    """Compare with a time server, if one answers (RFC 4330); ts_recv is only as accurate as this clock."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(2.0)
            sent = time.time()
            asking.sendto(b"\x1b" + bytes(47), ("pool.ntp.org", 123))
            answer = asking.recv(48)
            received = time.time()
    except OSError:
        return Finding("clock", "note", "no time server answered: make sure that NTP is running (timedatectl)")
    server = int.from_bytes(answer[40:44], "big") - _NTP_EPOCH_S + int.from_bytes(answer[44:48], "big") / 2**32
    off_s = server - (sent + received) / 2
    state: Literal["ok", "wrong"] = "ok" if abs(off_s) <= _CLOCK_OFF_S else "wrong"
    return Finding("clock", state, f"{off_s:+.3f} s from pool.ntp.org" + ("" if state == "ok" else ": start NTP"))


def _data_folder(folder: Path) -> Finding:
    """Write, sync, and rename a probe file in the data folder, and remove it again."""
    advice = "give this user write access to it, or choose another TAPE_DATA_DIR"
    if not folder.exists():
        above = _nearest(folder)
        if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
            return Finding("data folder", "wrong", f"{folder} cannot be created, {above} is not writable: {advice}")
        return Finding("data folder", "note", f"{folder} does not exist yet; the first recording creates it")
    probe = folder / ".doctor"
    try:
        write_whole(probe, b"probe")
    except OSError as error:
        return Finding("data folder", "wrong", f"{folder} cannot be written ({error.strerror}): {advice}")
    finally:
        for path in (probe, unfinished(probe)):
            with suppress(OSError):
                path.unlink()
    return Finding("data folder", "ok", f"{folder.absolute()} can be written")


def _nearest(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    whole = folder.absolute()
    return next(each for each in (whole, *whole.parents) if each.exists())


def _disk(settings: Settings) -> Finding:
    free_bytes = shutil.disk_usage(_nearest(settings.data_dir)).free
    text = f"{free_bytes / 2**30:,.1f} GiB free, reserve {settings.disk_reserve_bytes / 2**30:,.1f} GiB"
    if free_bytes < settings.disk_reserve_bytes:
        return Finding("disk", "wrong", f"{text}: make room or lower TAPE_DISK_RESERVE")
    return Finding("disk", "ok", text + doctor_service.days_left(settings, free_bytes))


def _calendar(settings: Settings, now_ns: int) -> Finding:
    try:
        zone = exchange_zone(settings.calendar)
        opens_s = next_open(now_ns, settings.calendar) // 10**9
    except SettingsError as error:
        return Finding("calendar", "wrong", str(error))
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(opens_s))
    ahead = dt.datetime.fromtimestamp(now_ns // 10**9, zone).date() + dt.timedelta(days=_CALENDAR_AHEAD_DAYS)
    if not is_covered(ahead, settings.calendar):
        last = f"{ahead.year - 1}-12-31"
        text = f"{settings.calendar} opens next on {when}, but is not known after {last}: update exchange-calendars"
        return Finding("calendar", "note", text)
    return Finding("calendar", "ok", f"{settings.calendar} ({zone.key}) opens next on {when}")


def _prefect() -> Finding:
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if url is None:
        return Finding("prefect", "note", "no PREFECT_API_URL: each run starts its own server (10 to 20 s)")
    try:
        check(str(url))
    except NoOrchestrator as error:
        return Finding("prefect", "wrong", str(error))
    parts = urlsplit(str(url))
    text = f"{parts.scheme}://{parts.hostname}:{parts.port or ''}{parts.path} answers"
    if is_open(str(url)):
        advice = "set PREFECT_SERVER_API_AUTH_STRING, see docs/operations.md"
        return Finding("prefect", "note", f"{text} without a password: {advice}")
    return Finding("prefect", "ok", text)


def _schedules() -> Finding:
    """Check that the server has scheduled the next run of each deployment; if it cannot, only its log says so."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        DeploymentFilterTags,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.settings import get_current_settings

    scheduled = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])))
    try:
        check(str(get_current_settings().api.url))  # Prefect's own client would try for minutes.
        with get_client(sync_client=True) as client:
            ours = client.read_deployments(deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=["tape"])))
            due = [each for each in ours if not each.paused and any(schedule.active for schedule in each.schedules)]
            nexts, missing = [], []
            for each in sorted(due, key=lambda deployment: deployment.name):
                runs = client.read_flow_runs(
                    flow_run_filter=scheduled, limit=1, sort=FlowRunSort.EXPECTED_START_TIME_ASC,
                    deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[each.id])),
                )  # fmt: skip
                if runs and runs[0].expected_start_time:
                    nexts.append(f"{each.name} {runs[0].expected_start_time:%Y-%m-%d %H:%M} UTC")
                else:
                    missing.append(each.name)
    except Exception as error:
        return Finding("schedules", "wrong", f"the server did not answer ({type(error).__name__}): check its log")
    if not due:
        return Finding("schedules", "note", "no deployment is scheduled: run `prefect deploy`, see docs/operations.md")
    if missing:
        text = f"no next run of {', '.join(missing)}: the server's scheduler does not work, check its log"
        return Finding("schedules", "wrong", text)
    return Finding("schedules", "ok", f"next: {', '.join(nexts)}")


def _object_store(settings: Settings) -> Finding:
    from flows.bucket import bucket_of
    from tasks.upload.probe import probe

    bucket = bucket_of(settings)
    if bucket is None:
        return Finding("object store", "note", "no TAPE_S3_BUCKET: archived batches stay on this machine")
    try:
        return Finding("object store", "ok", str(probe(bucket)))
    except TransientError as error:
        return Finding("object store", "wrong", f"{error} (may be temporary)")
    except RecorderError as error:
        return Finding("object store", "wrong", str(error))
