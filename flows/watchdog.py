"""Looks after the service: a trading day that should be recording and is not is recorded again, within a minute.

What should be recording is what `deployments/prefect.yaml` schedules; whether it is, the data folder says. Neither the
server nor a worker is needed for it: the watchdog starts `tape day`, which goes on without Prefect if it must. A
recorder that still runs is joined, a killed one's gap is named, and the lock on its API key keeps there from ever being
two. A day that somebody canceled is left alone.

It also ends runs whose process is gone, which the server would show as Running for ever, as they ended.
"""

import datetime as dt
import logging
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flows.service import FOLDER, trading_days
from flows.settings import Settings, load_settings
from tasks.errors import RecorderError
from tasks.market.hours import TradingDay, date_in, exchange_zone, trading_day_for
from tasks.records.ledger import Request
from tasks.records.requests import is_running, requests_of, stamp_of
from tasks.records.sessions import is_recording
from tasks.records.status import boot_id
from tasks.records.trade import NS_PER_S
from tasks.storage.store import Store

if TYPE_CHECKING:  # Importing it imports Prefect.
    from flows.runs import LastPage, Run

log = logging.getLogger(__name__)

LOOK_EVERY_S = 10.0
# The schedule and its worker come first: a run that they start takes seconds.
_GRACE_NS = 40 * NS_PER_S
# A worker that lives reports the end of its run itself.
_GONE_FOR_S = 20.0
_AGAIN_FIRST_S, _AGAIN_MOST_S = 60.0, 900.0
_PROGRAM = "from tape.start import main; main()"


@dataclass(frozen=True, slots=True)
class Due:
    """A trading day that a deployment schedules, with the deployment's settings; its hours include the margins."""

    deployment: str
    settings: Settings
    day: TradingDay

    def is_wanted_by(self, request: Request) -> bool:
        """Whether that is the request of a run of this day."""
        span = (request.start_ns, request.until_ns)
        is_same = request.feed == self.settings.feed and request.symbols == self.settings.symbols
        return is_same and span == (self.day.open_ns, self.day.close_ns)


def due_days(now_ns: int, within_ns: int = 0, folder: Path = FOLDER) -> list[Due]:
    """Return the scheduled trading days that last at that time (UTC ns), or ended at most `within_ns` before.

    Raises SettingsError if the settings of a deployment are wrong.
    """
    found = []
    for each in trading_days(folder):
        settings = load_settings(**each.parameters)
        today = dt.date.fromisoformat(date_in(exchange_zone(settings.calendar), now_ns))
        for date in (today + dt.timedelta(days=n) for n in (-1, 0, 1)):
            day = trading_day_for(date, settings.calendar, settings.open_before_ns, settings.close_after_ns)
            if day is not None and day.open_ns <= now_ns < day.close_ns + within_ns:
                found.append(Due(each.name, settings, day))
    return found


def requests_for(due: Due) -> list[tuple[Path, Request]]:
    """Return the requests of runs of that day, the oldest first, each with its session's folder."""
    sessions = Store(due.settings.data_dir).sessions
    folders = sorted(sessions.iterdir()) if sessions.is_dir() else []
    since_ns = due.day.open_ns - 86_400 * NS_PER_S
    recent = [folder for folder in folders if stamp_of(folder) > since_ns]
    found = [(folder, each) for folder in recent for each in requests_of(folder) if due.is_wanted_by(each)]
    return sorted(found, key=lambda pair: pair[1].id)


def needs_a_run(due: Due, now_ns: int) -> bool:
    """Whether nobody watches over the recording of that day, though it should last at that time (UTC ns)."""
    requests = [request for _, request in requests_for(due)]
    if not requests:
        return now_ns >= due.day.open_ns + _GRACE_NS
    if any(request.withdrawn_ns is None and is_running(request.process) for request in requests):
        return False
    newest = requests[-1]
    # Withdrawn before a reboot: that was the machine's going down, which ends its processes in order.
    return newest.withdrawn_ns is None or not newest.process.endswith(f"/{boot_id()}")


def is_recorded_now(due: Due) -> bool:
    """Whether a recorder runs for that day."""
    return any(is_recording(folder) for folder, request in requests_for(due) if request.withdrawn_ns is None)


@dataclass(slots=True)
class _Started:
    process: "subprocess.Popen[bytes]"
    again_s: float
    pause_s: float


@dataclass(slots=True)
class Watchdog:
    """Looks again and again; keeps what it started, so that a day that fails at once is tried ever more slowly."""

    folder: Path = FOLDER
    _started: dict[tuple[str, dt.date], _Started] = field(default_factory=dict)
    _gone: dict[str, float] = field(default_factory=dict)
    _complaint: str = ""

    def run(self) -> None:
        """Look until the process ends."""
        while True:
            self.look(time.time_ns())
            time.sleep(LOOK_EVERY_S)

    @property
    def started(self) -> list[int]:
        """The processes that it has started, which outlive it."""
        return [each.process.pid for each in self._started.values()]

    def look(self, now_ns: int) -> None:
        """Start what should be recording, and end runs whose process is gone; logs what it cannot do, and goes on."""
        try:
            for due in due_days(now_ns, folder=self.folder):
                if needs_a_run(due, now_ns):
                    self._start(due)
            self._end_gone_runs(Store(load_settings().data_dir))
            self._complaint = ""
        except (RecorderError, OSError) as error:
            if str(error) != self._complaint:
                log.error("the watchdog cannot look: %s", error)  # noqa: TRY400 - one line, told once.
            self._complaint = str(error)

    def _start(self, due: Due) -> None:
        key, now_s = (due.deployment, due.day.date), time.monotonic()
        before = self._started.get(key)
        code = None if before is None else before.process.poll()
        if before is not None and code is None:
            return
        # Who kills a run is not what it fails of: only one that fails by itself is tried again ever more slowly.
        failed = before is not None and code is not None and code >= 0
        if before is not None and failed and now_s < before.again_s:
            return
        pause_s = min(_AGAIN_MOST_S, 2 * before.pause_s) if before is not None and failed else _AGAIN_FIRST_S
        log.warning("%s of %s should be recording and nobody sees to it: starting it", due.deployment, due.day.date)
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, "day", due.deployment, "--date", str(due.day.date)],
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self._started[key] = _Started(process, now_s + pause_s, pause_s)

    def _end_gone_runs(self, store: Store) -> None:
        if not (store.root / "runs").is_dir():
            return
        from flows.runs import kept_page, page_beside, runs

        now_s = time.monotonic()
        gone = {run.id: (path, run) for path, run in runs(store) if run.is_gone}
        self._gone = {id: self._gone.get(id, now_s) for id in gone}
        for id, (path, run) in gone.items():
            if now_s - self._gone[id] >= _GONE_FOR_S and end_gone_run(run, kept_page(path)):
                page_beside(path).unlink(missing_ok=True)
                path.unlink(missing_ok=True)


def end_gone_run(run: "Run", page: "LastPage | None" = None) -> bool:
    """End a run whose process is gone, unless it has ended; return whether the server knows it now.

    It ends as its process noted, for which the API was away too long, and as Crashed if that was killed. `page` is the
    final page that the process could not send.
    """
    from uuid import UUID

    import httpx
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import ArtifactCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings
    from prefect.states import Completed, Crashed, Failed

    if get_current_settings().api.url is None:
        return False
    pid = run.process.partition("/")[0]
    if run.outcome is None:
        said = f"process {pid} on {run.host}, which executed this run, is gone; ended by the watchdog"
    else:
        said = f"{run.message or run.outcome} (the API was away when process {pid} ended; reported by the watchdog)"
    end = Crashed if run.outcome is None else Completed if run.outcome == "completed" else Failed
    try:
        # It looks again soon; Prefect would try for minutes, and a day that should be recording would wait.
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(run.id)).state
            if state is not None and not state.is_final():
                log.warning("the run %s stays %s: %s", run.name, state.name, said)
                client.set_flow_run_state(UUID(run.id), end(message=said), force=True)
            if page is not None:
                artifact = ArtifactCreate(
                    key=page.key, type="markdown", description=page.title, data=page.text, flow_run_id=UUID(run.id)
                )
                client.create_artifact(artifact)
    except ObjectNotFound:
        return True
    except httpx.HTTPError:
        return False
    return True


def amiss(now_ns: int, folder: Path = FOLDER, since_open_ns: int = 5 * 60 * NS_PER_S) -> list[str]:
    """Return what is wrong with the trading days that last now or ended within a day, from the data folder alone.

    A dead man's check: it depends on neither server, worker, watchdog, nor recorder. Raises SettingsError.
    """
    found = []
    for due in due_days(now_ns, 86_400 * NS_PER_S, folder):
        try:
            wrong = _what_is_amiss(due, now_ns, since_open_ns)
        except (RecorderError, OSError) as error:
            wrong = f"it cannot be told whether it was recorded: {error}"
        if wrong:
            found.append(f"{due.deployment} of {due.day.date}: {wrong}")
    return found


def _what_is_amiss(due: Due, now_ns: int, since_open_ns: int) -> str:
    from tasks.verify.account import account_of  # Not above: it brings the readers of rows.

    requests = requests_for(due)
    if requests and requests[-1][1].withdrawn_ns is not None:
        return ""  # Somebody canceled it.
    if now_ns < due.day.close_ns:
        is_late = now_ns >= due.day.open_ns + since_open_ns
        is_wrong = is_late and not is_recorded_now(due)
        return "the market is open and no recorder runs; see `tape doctor`, or run `tape day`" if is_wrong else ""
    wanted = Request(
        id="check", owner="tape check", symbols=due.settings.symbols, feed=due.settings.feed,
        start_ns=due.day.open_ns, until_ns=due.day.close_ns,
    )  # fmt: skip
    if account_of(Store(due.settings.data_dir), wanted).trades:
        return ""
    return "the day is over and not one trade was recorded; see `tape ls`"
