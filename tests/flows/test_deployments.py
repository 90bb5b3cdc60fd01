"""`deployments/prefect.yaml` does what its header says, on a real server with a real worker."""

import datetime as dt
import importlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml

from flows.service import TRADING_DAY, Definition, definitions
from flows.settings import load_settings
from tasks.market.hours import trading_day_for, trading_hours
from tasks.replay.generate import generate
from tasks.replay.run import serve_in_thread
from tasks.replay.server import ReplayOptions
from tasks.storage.store import Store
from tasks.verify.laws import verify

ROOT = Path(__file__).parents[2]
KEY, SECRET = "the-workers-own-key", "the-workers-s3-secret"
VENDORS_KEY = "the-vendors-key-that-nobody-is-sent"
ONE_SECOND = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_RUNNER_POLL_FREQUENCY": "1"}


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, str]:
    """What a worker's environment holds on a machine that records."""
    return {"FINNHUB_API_KEY": VENDORS_KEY, "TAPE_REPLAY_KEY": KEY, "TAPE_DATA_DIR": str(tmp_path / "unused")}


@pytest.fixture
def shell(tape: Any, secrets: dict[str, str]) -> Callable[[str], str]:
    """Runs a line of the header in the repository's root, as a shell does, with the secrets at hand."""

    def run(line: str) -> str:
        done = subprocess.run(
            ["/bin/sh", "-c", f"cd '{ROOT}' && exec {sys.executable} -m {line}"],
            env={**tape.server.environment, **secrets, "TAPE_S3_SECRET_ACCESS_KEY": SECRET},
            capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def worker(tape: Any, secrets: dict[str, str]) -> Iterator[Callable[[], "subprocess.Popen[bytes]"]]:
    """Starts a process worker from another folder; what it leaves is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        with (tape.folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "worker", "start", "--pool", "tape"],
                env={**tape.server.environment, **secrets, **ONE_SECOND},
                cwd=tape.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        children = [int(pid) for pid in _children(process.pid)]
        if process.poll() is None:
            process.kill()
        process.wait()
        for pid in children:
            _kill(pid)


def _children(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.fixture
def own_server(tape: Any, tmp_path: Path) -> Iterator[None]:
    """A Prefect server of this test's own: its schedules are no other test's."""
    tape.server = type(tape.server)(tmp_path / "prefect")
    tape.server.start()
    yield
    tape.server.stop()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("own_server")
def test_a_run_that_a_schedule_made_is_executed_by_a_worker(
    tape: Any, until: Any, shell: Callable[[str], str], worker: Callable[[], Any]
) -> None:
    """The server makes the next runs of every schedule, the doctor names them, and a worker runs one to its end."""
    shell("prefect work-pool create tape --type process --overwrite")
    shell("prefect --no-prompt deploy --all --prefect-file deployments/prefect.yaml")
    deployed = {each["name"]: each for each in tape.server.ask("deployments/filter", {})}

    def runs(deployment: str, **state: Any) -> Any:
        wanted = {"deployments": {"id": {"any_": [deployed[deployment]["id"]]}}, "flow_runs": {"state": state}}
        return tape.server.ask("flow_runs/filter", wanted)

    for name in ("market-hours", "safety-net", "close-day", "weekly-verify"):
        made = until(lambda name=name: runs(name, type={"any_": ["SCHEDULED"]}), 120)
        assert all(each["auto_scheduled"] for each in made)
    doctor = tape.run("doctor")
    (line,) = [line for line in doctor.stdout.splitlines() if line[6:].startswith("schedules")]
    assert line.startswith("ok")
    assert all(name in line for name in ("market-hours", "safety-net", "close-day"))
    for name in ("market-hours", "close-day", "safety-net"):
        tape.server.ask(f"deployments/{deployed[name]['id']}/pause_deployment", {})
    every = {"interval": 15, "anchor_date": "2026-01-01T00:00:00Z"}
    schedule = [{"schedule": every, "active": True}]
    tape.server.ask(f"deployments/{deployed['safety-net']['id']}/schedules", schedule)
    tape.server.ask(f"deployments/{deployed['safety-net']['id']}/resume_deployment", {})
    worker()
    done = until(lambda: runs("safety-net", name={"any_": ["Completed"]}), 200)
    assert done[0]["auto_scheduled"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_deployed_by_its_own_header_it_records_is_cancelled_and_outlives_its_worker(
    tape: Any, until: Any, shell: Callable[[str], str], worker: Callable[[], Any]
) -> None:
    """Schedules and secrets are as they should be; a run completes, one is cancelled in order, one loses its worker."""
    shell("prefect work-pool create tape --type process --overwrite")
    working = worker()
    shell("prefect --no-prompt deploy --all --prefect-file deployments/prefect.yaml")
    ours = {each.name for each in definitions()}  # Other tests may have deployed to the server that they share.
    deployed = {each["name"]: each for each in tape.server.ask("deployments/filter", {}) if each["name"] in ours}
    assert_schedules(deployed)
    for each in deployed.values():
        assert each["pull_steps"] == [{"prefect.deployments.steps.set_working_directory": {"directory": "/"}}]
        assert each["job_variables"] == {"env": {"STOCK_TRACING_FOLDER": str(ROOT)}}
        assert KEY not in str(each)
        assert VENDORS_KEY not in str(each)
        assert SECRET not in str(each)
        # A limit's slot is a lease: where the API restarts it is lost, and Prefect ends the run in mid-session.
        assert each["concurrency_limit"] is None
        assert each["global_concurrency_limit"] is None

    both = {"parameters": {"end": {"record_for": "5m", "until": "16:00"}}}
    with pytest.raises(urllib.error.HTTPError) as refused:
        tape.server.ask(f"deployments/{deployed['by-hand']['id']}/create_flow_run", both)
    assert refused.value.code in (409, 422)

    for each in deployed.values():  # From here on nothing runs but what the test starts.
        tape.server.ask(f"deployments/{each['id']}/pause_deployment", {})

    def start(name: str, settings: dict[str, str] | None = None, **parameters: Any) -> str:
        """Start a run; `settings` are what a worker of another machine would have in its environment."""
        wanted = {
            "parameters": parameters,
            "job_variables": {"env": {"STOCK_TRACING_FOLDER": str(ROOT), **(settings or {})}},
        }
        answer = tape.server.ask(f"deployments/{deployed[name]['id']}/create_flow_run", wanted)
        return str(answer["id"])

    def state(run: str) -> str:
        (found,) = tape.server.ask("flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return str(found["state"]["type"])

    def ended(run: str) -> bool:
        """Never true: a run that is to record must not have ended, and says why it did."""
        if state(run) in {"FAILED", "CRASHED", "COMPLETED", "CANCELLED"}:
            logs = tape.server.ask("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
            raise AssertionError(f"{state(run)}: {[each['message'] for each in logs]}")
        return False

    def trades(folder: str) -> int:
        return int(tape.status(tape.folder / folder).get("trades", 0))

    with (
        serve_in_thread(generate(13, 90), ReplayOptions(speed=1.0)) as one,
        serve_in_thread(generate(14, 90), ReplayOptions(speed=1.0)) as two,
        serve_in_thread(generate(15, 180), ReplayOptions(speed=1.0)) as three,
    ):
        stolen = tape.folder / "stolen"
        foreign = start("by-hand", symbols=["SPY"], feed_url=one.url, data_dir=str(stolen))
        until(lambda: state(foreign) in ("FAILED", "CRASHED"), 120)
        assert not stolen.exists()
        assert not (tape.folder / "unused").exists()
        common = {"symbols": ["SPY", "NVDA", "TSLA"], "batch_for": "1s"}
        runs = {
            folder: start(
                "by-hand", {"TAPE_FEED_URL": served.url, "TAPE_DATA_DIR": str(tape.folder / folder)},
                **common, end={"record_for": record_for},
            )
            for folder, served, record_for in (
                ("completed", one, "10s"), ("cancelled", two, "60s"), ("orphaned", three, "50s"),
            )
        }  # fmt: skip
        until(lambda: trades("cancelled") > 50 or ended(runs["cancelled"]), 120)
        cancel = {"state": {"type": "CANCELLING"}}
        assert tape.server.ask(f"flow_runs/{runs['cancelled']}/set_state", cancel)["status"] == "ACCEPT"
        until(lambda: state(runs["completed"]) == "COMPLETED")
        until(lambda: state(runs["cancelled"]) == "CANCELLED")
        until(lambda: trades("orphaned") > 50 or ended(runs["orphaned"]), 120)
        flows = _children(working.pid)
        working.kill()
        working.wait()
        assert tape.status(tape.folder / "orphaned")["state"] == "recording"
        for pid in flows:  # They would die on their next log line, whenever that is.
            _kill(int(pid))
        cancelled = record_of(tape.folder / "cancelled")
        assert (cancelled["outcome"], cancelled["gaps"]) == ("stopped", [])
        assert not list((tape.folder / "cancelled").glob("spool/*"))
        orphaned = until(lambda: record_of(tape.folder / "orphaned"), 90)
    assert (orphaned["outcome"], orphaned["gaps"]) == ("complete", [])
    assert Store(tape.folder / "orphaned").sealed_batches()
    worker()
    net = start("safety-net", {"TAPE_DATA_DIR": str(tape.folder / "orphaned")})
    until(lambda: state(net) == "COMPLETED")
    for folder in ("completed", "orphaned"):
        store = Store(tape.folder / folder)
        assert not store.sealed_batches()
        assert store.manifests()
        verdict = verify(store)
        assert verdict.holds, verdict.broken
        assert verdict.trades > 50


@pytest.mark.parametrize("deployment", [each for each in definitions() if each.entrypoint == TRADING_DAY])
def test_each_market_is_one_that_the_calendars_know(deployment: Definition) -> None:
    """Every deployment of a trading day has settings that are accepted, fires before its open, and reads its breaks."""
    settings = load_settings(**deployment.parameters)
    day = next(
        found
        for n in range(1, 8)
        if (found := trading_day_for(dt.date(2026, 3, n + 1), settings.calendar, settings.open_before_ns))
    )
    (schedule,) = deployment.schedules
    minute, hour, *_ = (int(each) for each in schedule.cron.split()[:2])
    fires = dt.datetime.combine(day.date, dt.time(hour, minute), ZoneInfo(schedule.timezone)).timestamp() * 10**9
    assert 0 <= day.open_ns - fires <= 5 * 60 * 10**9
    breaks = {"XHKG": 2, "XTKS": 2}.get(settings.calendar, 1)
    assert len(trading_hours(day.open_ns + settings.open_before_ns, day.close_ns, settings.calendar)) == breaks


@pytest.mark.parametrize("deployment", yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())["deployments"])
def test_no_parameter_says_where_a_key_or_a_file_goes(deployment: dict[str, Any]) -> None:
    """Whoever may start a run chooses what is recorded, and when; from where and to where is the machine's to say."""
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    allowed = {"symbols", "end", "batch_for", "lanes", "date"}
    allowed |= {"feed", "calendar", "open_before", "close_after"}  # A vendor's key goes to that vendor alone.
    assert set(flow.parameters.properties) <= allowed
    assert set(deployment["parameters"]) <= set(flow.parameters.properties)
    assert all(each["description"] for each in flow.parameters.properties.values())  # What the form shows.


def test_the_form_offers_one_way_to_end_a_session() -> None:
    """A duration and a time are two choices of one field, each with a title, and neither has room for the other."""
    from flows.record_session import record_session

    end = record_session.parameters.properties["end"]
    choices = [record_session.parameters.definitions[each["$ref"].rpartition("/")[2]] for each in end["anyOf"]]
    assert [each["title"] for each in choices] == ["for a duration", "until a time"]
    assert [list(each["properties"]) for each in choices] == [["record_for"], ["until"]]
    assert not any(each["additionalProperties"] for each in choices)
    assert end["default"] == {"record_for": "5m"}


def assert_schedules(deployed: dict[str, Any]) -> None:
    """Before the open, in the exchange's own zone; the net every quarter of an hour; closing by night; no button.

    Other markets are there to be turned on.
    """
    schedules = {
        name: [(each["schedule"]["cron"], each["schedule"]["timezone"], each["active"]) for each in it["schedules"]]
        for name, it in deployed.items()
    }
    assert schedules == {
        "market-hours": [("25 9 * * 1-5", "America/New_York", True)],
        "safety-net": [("*/15 * * * *", "America/New_York", True)],
        "close-day": [("0 3 * * *", "America/New_York", True)],
        "weekly-verify": [("0 8 * * 6", "America/New_York", True)],
        "by-hand": [],
        "extended-hours": [("55 3 * * 1-5", "America/New_York", False)],
        "crypto": [("0 0 * * *", "UTC", False)],
        "crypto-binance": [("0 0 * * *", "UTC", False)],
        "hong-kong": [("25 9 * * 1-5", "Asia/Hong_Kong", False)],
        "tokyo": [("55 8 * * 1-5", "Asia/Tokyo", False)],
    }


def record_of(data: Path) -> Any:
    """The record of the folder's only session, or None before it has ended."""
    paths = list(data.glob("sessions/*/session.json"))
    return json.loads(paths[0].read_text()) if paths else None
