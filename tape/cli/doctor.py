"""Is everything there that a recording needs, and what is to be done where it is not?"""

import datetime as dt
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from flows.deadline import key_of, key_setting
from flows.orchestrator import NoOrchestrator, check, is_open
from flows.settings import Settings
from flows.surroundings import check_feed, exposures
from tasks.address import address_of
from tasks.errors import RecorderError, SettingsError, TransientError
from tasks.market.hours import exchange_zone, is_covered, next_open
from tasks.storage.store import unfinished, write_whole

_WITHIN_S = 5.0
# More than the store's own attempts take where it refuses or cannot be found.
_GIVE_UP_S = 12.0
_NTP_EPOCH_S = 2_208_988_800
_CLOCK_OFF_S = 1.0
_CALENDAR_AHEAD_DAYS = 45


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, how it is, and what is so or what to do next."""

    name: str
    state: Literal["ok", "note", "wrong"]
    text: str


def examine(settings: Settings) -> list[Finding]:
    """Look at everything, in the order in which a recording would need it. Changes nothing that lasts.

    Where nothing answers it takes seconds, not minutes: what asks the network is asked at once, and given up in time.
    """
    import prefect.main  # noqa: F401 - two threads that import it at the same time can wait for each other for ever
    from prefect.settings import get_current_settings

    no_server = get_current_settings().api.url is None
    asked = {
        "feed": bounded("feed", lambda: _feed(settings), f"check network and resolution of {settings.feed_address}"),
        "clock": bounded("clock", _clock, "check network and name resolution"),
        "schedules": bounded("schedules", _schedules, "look at the server's log"),
        "prefect": bounded("prefect", _prefect, "check PREFECT_API_URL"),
        "store": bounded("object store", lambda: _object_store(settings), "check network and TAPE_S3_ENDPOINT_URL"),
    }
    return [
        _key(settings),
        asked["feed"](),
        asked["clock"](),
        _data_folder(settings.data_dir),
        *(Finding("exposed", "note", exposure) for exposure in exposures(settings)),
        _disk(settings),
        _calendar(settings, time.time_ns()),
        asked["prefect"](),
        *([] if no_server else [asked["schedules"]()]),
        asked["store"](),
    ]


def bounded(name: str, look: Callable[[], Finding], advice: str, within_s: float = _GIVE_UP_S) -> Callable[[], Finding]:
    """Start a look that may hang, and give what waits for its finding: name resolution takes no time limit of ours.

    A daemon thread, so that one that hangs does not keep the command from ending.
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
        return Finding("key", "ok", f"{settings.feed} needs none")
    return Finding("key", "ok", f"{name} is set; whether the feed takes it shows at the first connection")


def _feed(settings: Settings) -> Finding:
    """Go the way that a recorder goes, by name resolution, proxy and TLS, but not into the feed's one connection."""
    from tasks.capture.feed import reach

    try:
        check_feed(settings)
        return Finding("feed", "ok", f"{reach(settings.feed_address, _WITHIN_S)} can be reached")
    except SettingsError as error:
        return Finding("feed", "wrong", str(error))
    except TransientError as error:
        where = address_of(settings.feed_address)
        return Finding("feed", "wrong", f"{where} cannot be reached ({error}): check network, proxy and SSL_CERT_FILE")


def _clock() -> Finding:
    """Compare with a time server, where one can be asked (RFC 4330); ts_recv is only as good as this clock."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(2.0)
            sent = time.time()
            asking.sendto(b"\x1b" + bytes(47), ("pool.ntp.org", 123))
            answer = asking.recv(48)
            received = time.time()
    except OSError:
        return Finding("clock", "note", "no time server could be asked: make sure that NTP runs (timedatectl)")
    server = int.from_bytes(answer[40:44], "big") - _NTP_EPOCH_S + int.from_bytes(answer[44:48], "big") / 2**32
    off_s = server - (sent + received) / 2
    state: Literal["ok", "wrong"] = "ok" if abs(off_s) <= _CLOCK_OFF_S else "wrong"
    return Finding("clock", state, f"{off_s:+.3f} s from pool.ntp.org" + ("" if state == "ok" else ": start NTP"))


def _data_folder(folder: Path) -> Finding:
    """Write, sync and rename beside what is there, and take it away again."""
    advice = "give this user write access to it, or choose another TAPE_DATA_DIR"
    if not folder.exists():
        above = _nearest(folder)
        if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
            return Finding("data folder", "wrong", f"{folder} cannot be made, {above} cannot be written: {advice}")
        return Finding("data folder", "note", f"{folder} does not exist yet; the first recording makes it")
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
    """The folder, or the nearest one above it that exists."""
    whole = folder.absolute()
    return next(each for each in (whole, *whole.parents) if each.exists())


def _disk(settings: Settings) -> Finding:
    free_bytes = shutil.disk_usage(_nearest(settings.data_dir)).free
    text = f"{free_bytes / 2**30:,.1f} GiB free, reserve {settings.disk_reserve_bytes / 2**30:,.1f} GiB"
    if free_bytes < settings.disk_reserve_bytes:
        return Finding("disk", "wrong", f"{text}: make room or lower TAPE_DISK_RESERVE")
    return Finding("disk", "ok", text)


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
        return Finding("prefect", "note", "no PREFECT_API_URL: each run starts a server of its own (10 to 20 s)")
    try:
        check(str(url))
    except NoOrchestrator as error:
        return Finding("prefect", "wrong", str(error))
    parts = urlsplit(str(url))
    text = f"{parts.scheme}://{parts.hostname}:{parts.port or ''}{parts.path} answers"
    if is_open(str(url)):
        return Finding("prefect", "note", f"{text}, whoever asks: set PREFECT_SERVER_API_AUTH_STRING, see README")
    return Finding("prefect", "ok", text)


def _schedules() -> Finding:
    """Whether the server has made the next run of each scheduled deployment; one that cannot tells only its log."""
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
        return Finding("schedules", "wrong", f"the server does not tell ({type(error).__name__}): look at its log")
    if not due:
        return Finding("schedules", "note", "no deployment of ours is scheduled: `prefect deploy`, see README")
    if missing:
        text = f"no next run of {', '.join(missing)}: the server's scheduler does not work, look at its log"
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
        return Finding("object store", "wrong", f"{error} (may mend itself)")
    except RecorderError as error:
        return Finding("object store", "wrong", str(error))
