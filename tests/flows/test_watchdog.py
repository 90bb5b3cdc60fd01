"""A day that should be recording goes on within a minute, and a run whose process is gone is ended."""

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from webhook import Receiver

from flows.watchdog import Due, Watchdog, amiss, due_days, needs_a_run
from tasks.records.ledger import Request
from tasks.records.requests import join, this_process
from tasks.replay.generate import generate
from tasks.replay.run import serve_in_thread
from tasks.replay.server import ReplayOptions
from tasks.storage.locks import SESSION_LOCK, acquire

SESSION = "20261124T143000Z-9f3c01ab"
S = 1_000_000_000
# An exchange that is always open: its day is the UTC day, and the one deployment that is on records it.
ALWAYS = {"TAPE_CALENDAR": "24/7", "TAPE_OPEN_BEFORE": "0s", "TAPE_CLOSE_AFTER": "0s", "TAPE_SYMBOLS": "SPY,NVDA"}


@pytest.fixture
def due(tape: Any) -> Iterator[Due]:
    """The day that lasts now, in a folder in which nothing was recorded."""
    with tape.here(**ALWAYS):
        tape.store.prepare()
        (found,) = due_days(time.time_ns())
        yield found


@pytest.fixture
def asked(tape: Any, due: Due) -> Callable[..., Path]:
    """Leaves a run's request for the day in a session's folder, as a run would."""
    folder: Path = tape.data / "sessions" / SESSION

    def ask(**changes: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        mine = Request(
            id=f"{time.time_ns()}-ab", owner="a run", symbols=due.settings.symbols, start_ns=due.day.open_ns,
            until_ns=due.day.close_ns, process=this_process(),
        )  # fmt: skip
        assert join(folder, replace(mine, **changes), time.time_ns())
        return folder

    return ask


GONE = f"999999999/1/{this_process().rpartition('/')[2]}"
BEFORE_A_REBOOT = "999999999/1/another-boot"


@pytest.mark.parametrize(
    ("requests", "needed"),
    [
        ([], True),
        ([{}], False),
        ([{"process": GONE}], True),
        ([{"process": GONE, "withdrawn_ns": 1}], False),  # Somebody canceled it.
        ([{"process": BEFORE_A_REBOOT, "withdrawn_ns": 1}], True),  # The machine went down in order.
        ([{"withdrawn_ns": 1}, {}], False),
        ([{"symbols": ("TSLA",)}], True),  # Somebody else's.
        ([{"until_ns": 2 * S, "process": GONE}], True),
    ],
)
def test_a_day_needs_a_run_where_none_lives_and_none_was_canceled(
    due: Due, asked: Callable[..., Path], requests: list[dict[str, Any]], needed: bool
) -> None:
    """A live run is enough, a dead one is not; a canceled day is left alone, unless the machine has been down since."""
    for each in requests:
        asked(**each)
    assert needs_a_run(due, time.time_ns()) == needed


def test_a_run_that_the_schedule_starts_comes_first(due: Due) -> None:
    """In the first seconds of a day the schedule and its worker have their turn."""
    assert not needs_a_run(due, due.day.open_ns + 30 * S)
    assert needs_a_run(due, due.day.open_ns + 50 * S)


def test_what_is_not_scheduled_is_not_due(tape: Any) -> None:
    """On a holiday, by night, and for deployments whose schedule is off, nothing is due."""
    with tape.here(TAPE_SYMBOLS="SPY"):
        for utc, names in {
            "2026-11-26T15:00": [],  # Thanksgiving.
            "2026-11-27T15:00": ["market-hours"],
            "2026-11-27T18:14": ["market-hours"],  # The exchange closes at one, New York time.
            "2026-11-27T18:16": [],
        }.items():
            now_ns = int(dt.datetime.fromisoformat(f"{utc}+00:00").timestamp()) * S
            assert [each.deployment for each in due_days(now_ns)] == names


def test_the_check_reads_the_folder_alone(tape: Any, due: Due, asked: Callable[..., Path]) -> None:
    """A market that is open without a recorder, and a day without a trade, are wrong; what was canceled is not."""
    now_ns = due.day.open_ns + 3_600 * S
    today, yesterday = amiss(now_ns)[::-1]
    assert f"of {due.day.date}: the market is open and no recorder runs" in today
    assert "the day is over and not one trade was recorded" in yesterday
    lock = acquire(asked() / SESSION_LOCK)
    assert lock is not None
    assert amiss(now_ns) == [yesterday]
    lock.release()
    asked(withdrawn_ns=1)
    assert amiss(now_ns) == [yesterday]


def test_the_check_alerts_once_by_itself(tape: Any) -> None:
    """Without any server, what is wrong is sent once to the receiver, and is an exit status each time."""
    with Receiver() as receiver:
        for _ in range(2):
            done = tape.run("check", "--alert", **ALWAYS, TAPE_ALERT_URL=receiver.url, PREFECT_API_URL="")
            assert done.returncode == 1, done.stderr
            assert "not one trade was recorded" in done.stdout
    assert receiver.subjects() == ["tape: not recorded"]
    assert "a-secret-path" not in done.stdout + done.stderr


def test_a_run_whose_process_is_gone_ends_as_crashed(tape: Any, until: Any) -> None:
    """A run that is killed in its middle stays Running, until the watchdog says where its process went."""
    program = """
import os
from pathlib import Path
from prefect import flow
from flows.runs import note_run
from tasks.storage.store import Store

@flow(name="killed")
def killed():
    note_run(Store(Path("data")))
    os.kill(os.getpid(), 9)

killed()
"""
    tape.store.prepare()
    subprocess.run([sys.executable, "-c", program], cwd=tape.folder, env=tape.server.environment, check=False)
    (path,) = tape.data.glob("runs/*.json")

    def state() -> Any:
        (run,) = tape.server.ask("flow_runs/filter", {"flow_runs": {"id": {"any_": [path.stem]}}})
        return run["state"]

    assert state()["type"] == "RUNNING"
    watchdog = Watchdog()
    with tape.here():
        watchdog.look(time.time_ns())
        assert state()["type"] == "RUNNING"  # A worker that lives would say it first.
        watchdog._gone = dict.fromkeys(watchdog._gone, 0.0)
        watchdog.look(time.time_ns())
    assert state()["type"] == "CRASHED"
    assert "is gone; ended by the watchdog" in state()["message"]
    assert not path.exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_day_goes_on_within_a_minute_of_the_death_of_all(tape: Any, until: Any) -> None:
    """Nobody records: the watchdog starts the day. Run and recorder are killed: it goes on, the hole is a gap."""
    with serve_in_thread(generate(61, 400), ReplayOptions(speed=1.0)) as server:
        dog = start_watchdog(tape, TAPE_FEED_URL=server.url, TAPE_BATCH_FOR="2s", TAPE_MIN_COVERAGE="0%")
        until(lambda: tape.status().get("trades", 0) > 50)
        (first,) = tape.data.glob("sessions/*")
        (request,) = requests(first)
        recorder, day = tape.status()["pid"], int(request.process.partition("/")[0])
        for pid in (day, recorder):
            os.kill(pid, signal.SIGKILL)
        killed_s = time.monotonic()
        until(lambda: (tape.data / "sessions" / first.name / "session.json").exists())
        until(lambda: tape.status().get("pid") != recorder and tape.status().get("trades", 0) > 50)
        assert time.monotonic() - killed_s < 60
        second = sorted(tape.data.glob("sessions/*"))[-1]
        (anew,) = requests(second)
        assert len(list(tape.data.glob("sessions/*"))) == 2
        run = until(lambda: crashed(tape, request.owner))
        assert f"process {day} on" in run["state"]["message"]
        # Canceled by hand, it stays so.
        os.kill(int(anew.process.partition("/")[0]), signal.SIGTERM)
        until(lambda: (second / "session.json").exists())
        dog.kill()
        dog.wait()
        with tape.here(**ALWAYS):
            assert not any(needs_a_run(each, time.time_ns()) for each in due_days(time.time_ns()))
        with suppress(ProcessLookupError):
            until(lambda: os.kill(int(anew.process.partition("/")[0]), 0))
    assert tape.run("archive").returncode == 0
    verdict = tape.verdict()
    assert verdict.holds, verdict.broken
    assert verdict.sessions == 2


def start_watchdog(tape: Any, **settings: str) -> "subprocess.Popen[bytes]":
    """Start `tape watchdog`; what it starts outlives it, and keeps its output, which is a file for that."""
    with (tape.folder / "watchdog.log").open("ab") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("tape")), "watchdog"],
            cwd=tape.folder, env={**tape.server.environment, **ALWAYS, **settings},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    tape.running.append(process)
    return process


def requests(folder: Path) -> Any:
    """The requests of a session."""
    from tasks.records.requests import requests_of

    return requests_of(folder)


def crashed(tape: Any, name: str) -> Any:
    """The run of that name, once it has crashed."""
    runs = tape.server.ask("flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}, "sort": "START_TIME_ASC"})
    return next((each for each in runs if each["state"]["type"] == "CRASHED"), None)
