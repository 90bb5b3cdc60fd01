"""The doctor names what is wrong, with the next step, in time and without secrets."""

import datetime as dt
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.runs import Run
from flows.service import definitions
from flows.settings import load_settings
from tape.cli.doctor import _calendar, bounded, examine
from tape.cli.doctor_service import automations, days_left, deployments, known_of_key, stuck_runs
from tape.cli.doctor_service import worker as worker_there
from tape.cli.finding import Finding
from tasks.records.ledger import SessionRecord
from tasks.records.manifest import encode

SECRET = "an-s3-secret-that-is-never-shown"


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of loopback on which nobody answers, kept from others for the test."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def open_port() -> Iterator[int]:
    """A port of loopback that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_all_is_well(tape: Any, bucket_settings: dict[str, str], open_port: int) -> None:
    """With key, feed, folder, server and bucket there, `tape doctor` finds nothing wrong and ends with 0."""
    tape.data.mkdir(mode=0o700)
    feed = {"TAPE_FEED_URL": f"ws://127.0.0.1:{open_port}", "TAPE_DISK_RESERVE": "1MiB"}
    done = tape.run("doctor", **feed, **bucket_settings)
    states = {line[6:18].strip(): line[:5].strip() for line in done.stdout.splitlines()}
    # Other tests may have deployed to the server that they share, and their workers are gone.
    worker = states.pop("worker")
    assert done.returncode == (worker == "wrong"), done.stdout + done.stderr
    assert states.pop("clock") in ("ok", "note")
    assert states.pop("prefect") == "note"  # The tests' server has no password.
    for name in ("schedules", "deployments", "alarms"):  # As other tests have left the server.
        assert states.pop(name) in ("ok", "note")
    assert states.pop("recording") in ("ok", "note")  # Nothing was ever recorded here.
    assert set(states) == {
        "key",
        "feed",
        "carries",
        "data folder",
        "disk",
        "calendar",
        "object store",
        "runs",
        "batches",
    }
    assert set(states.values()) == {"ok"}
    assert list(tape.data.iterdir()) == []
    assert bucket_settings["TAPE_S3_SECRET_ACCESS_KEY"] not in done.stdout + done.stderr


def test_all_is_wrong(tape: Any, closed_port: int) -> None:
    """Each thing that is wrong has a line with its next step; exit status 1, within seconds, no secret."""
    began = time.monotonic()
    done = tape.run(
        "doctor",
        FINNHUB_API_KEY="",
        TAPE_FEED_URL="wss://ws.finnhub.io",
        https_proxy=f"http://127.0.0.1:{closed_port}",
        TAPE_DATA_DIR="/proc",
        TAPE_DISK_RESERVE="900TiB",
        TAPE_CALENDAR="XNYX",
        TAPE_S3_BUCKET="market-tape",
        TAPE_S3_ENDPOINT_URL=f"http://127.0.0.1:{closed_port}",
        TAPE_S3_REGION="us-east-1",
        TAPE_S3_ACCESS_KEY_ID="an-id",
        TAPE_S3_SECRET_ACCESS_KEY=SECRET,
        PREFECT_API_URL=f"http://127.0.0.1:{closed_port}/api",
    )
    assert done.returncode == 1
    assert time.monotonic() - began < 25
    lines = {line[6:18].strip(): line for line in done.stdout.splitlines()}
    assert lines.pop("clock")[:5].strip() in ("ok", "note", "wrong")
    assert "chmod go= /proc" in lines.pop("exposed")
    assert "IEX" in lines.pop("carries")
    for name, next_step in {
        "key": "put it in .env",
        "feed": "check the network",
        "data folder": "TAPE_DATA_DIR",
        "disk": "TAPE_DISK_RESERVE",
        "calendar": "XNYS",
        "prefect": "prefect server start",
        "object store": "market-tape",
        "schedules": "check its log",
        "worker": "check its log",
        "deployments": "check its log",
        "alarms": "check its log",
        "recording": "XNYS",
    }.items():
        line = lines.pop(name)
        assert line.startswith("wrong"), line
        assert next_step in line
    assert {name: line[:5].strip() for name, line in lines.items()} == {"runs": "ok", "batches": "ok"}
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_look_that_hangs_is_given_up() -> None:
    """A name that is never resolved costs the time it is given, and is said to be wrong."""
    never = threading.Event()
    began = time.monotonic()

    def look() -> Finding:
        never.wait()
        return Finding("feed", "ok", "")

    finding = bounded("feed", look, "check the network", within_s=0.2)()
    never.set()
    assert time.monotonic() - began < 5
    assert finding == Finding("feed", "wrong", "no answer within 0.2 s: check the network")


def test_what_is_not_there_yet_is_no_fault(tape: Any, closed_port: int) -> None:
    """A data folder that the first recording will make, and no bucket, are notes; a place that takes none is wrong."""
    with tape.here(TAPE_FEED_URL=f"ws://127.0.0.1:{closed_port}"):
        fresh = {finding.name: finding for finding in examine(load_settings())}
        file = tape.folder / "file"
        file.write_text("")
        blocked = {finding.name: finding for finding in examine(load_settings(data_dir=Path(file / "data")))}
    assert fresh["data folder"].state == fresh["object store"].state == "note"
    assert not tape.data.exists()
    assert blocked["data folder"].state == "wrong"
    assert str(file) in blocked["data folder"].text


@pytest.mark.parametrize(("today", "state"), [("2026-06-01", "ok"), ("2026-12-01", "note")])
def test_a_calendar_that_ends_soon_is_told_weeks_ahead(today: str, state: str) -> None:
    """In the last weeks that a calendar covers the doctor says so, while it still opens."""
    now_ns = int(dt.datetime.fromisoformat(today).replace(tzinfo=dt.UTC).timestamp()) * 10**9
    finding = _calendar(load_settings(calendar="XSHG"), now_ns)
    assert finding.state == state
    assert ("not known after 2026-12-31: update exchange-calendars" in finding.text) == (state == "note")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_service_is_looked_at(tape: Any, tmp_path: Path, until: Any, open_port: int) -> None:
    """Before, without a worker, with one, after a change, and with a run whose process is gone: each has its line."""
    tape.server = type(tape.server)(tmp_path / "prefect")
    tape.server.start()
    feed = {"TAPE_FEED_URL": f"ws://127.0.0.1:{open_port}", "TAPE_ALERT_URL": "http://127.0.0.1:9/x"}

    def look() -> dict[str, str]:
        """What the doctor finds of the service, in this process: a command takes ten seconds to start."""
        with tape.here(**feed):
            settings = load_settings()
            findings = (worker_there(), deployments(), automations(settings), stuck_runs(settings))
        return {each.name: f"{each.state} {each.text}" for each in findings}

    worker = None
    try:
        before = look()
        assert before["worker"].startswith("note none has ever polled")
        assert "run `tape deploy`" in before["deployments"]
        assert "off or not deployed" in before["alarms"]
        assert tape.run("deploy", **feed).returncode == 0
        deployed = look()
        assert deployed["worker"].startswith("wrong none has ever polled, so no run begins")
        assert deployed["deployments"] == f"ok {len(definitions())}, as in this checkout"
        assert deployed["alarms"] == "ok 5 automations are on"
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "tape"], cwd=tape.folder,
            env=tape.server.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(lambda: look()["worker"].startswith("ok a worker of the pool tape polled"))
        (net,) = [each for each in tape.server.ask("deployments/filter", {}) if each["name"] == "safety-net"]
        tape.server.ask(f"deployments/{net['id']}", {"parameters": {"changed": 1}}, "PATCH")
        run = tape.server.ask("flow_runs/", {"flow_id": net["flow_id"], "name": "lost", "state": {"type": "RUNNING"}})
        gone = Run(run["id"], "lost", "999999999/1/boot", socket.gethostname())
        tape.store.prepare()
        (tape.data / "runs").mkdir()
        (tape.data / "runs" / f"{run['id']}.json").write_bytes(encode(gone))
        after = look()
        assert "safety-net differs; run `tape deploy`" in after["deployments"]
        assert after["runs"].startswith("wrong no process executes lost")
    finally:
        if worker is not None:
            worker.kill()
            worker.wait()
        tape.server.stop()


def test_a_key_that_was_refused_is_told(tape: Any) -> None:
    """What the newest session was told of its key is known without another connection."""
    folder = tape.data / "sessions" / "20261124T143000Z-9f3c01ab"
    folder.mkdir(parents=True)
    record = SessionRecord(
        session=folder.name, feed="finnhub", symbols=("SPY",), started_ns=1, listening_ns=None, ended_ns=2,
        deadline_ns=3, outcome="failed", error="the feed refused the API key: Invalid API key", connections=1,
        frames_received=0, batches=(0,), gaps=(),
    )  # fmt: skip
    with tape.here(TAPE_FEED_URL="ws://127.0.0.1:9"):
        assert "not tried yet" in known_of_key(load_settings(), "KEY").text
        (folder / "session.json").write_bytes(encode(record))
        assert known_of_key(load_settings(), "KEY").state == "wrong"
        (folder / "session.json").write_bytes(encode(replace(record, error=None, listening_ns=2)))
        assert "was accepted" in known_of_key(load_settings(), "KEY").text


def test_days_left_follow_the_newest_day(tape: Any) -> None:
    """Free space is given in days at the rate of the newest archived day, above the reserve."""
    for date, size in (("2026-11-23", 10), ("2026-11-24", 1 << 20)):
        folder = tape.data / "archive" / "feed=finnhub" / f"date={date}"
        folder.mkdir(parents=True)
        (folder / "a.parquet").write_bytes(bytes(size))
    with tape.here(TAPE_DISK_RESERVE="1MiB"):
        assert days_left(load_settings(), 11 << 20) == "; 10 days at the rate of 2026-11-24 (1.0 MiB archived)"
