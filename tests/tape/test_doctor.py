"""The doctor names what is wrong, with the next step, in time and without secrets."""

import datetime as dt
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.settings import load_settings
from tape.cli.doctor import Finding, _calendar, bounded, examine

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
    assert done.returncode == 0, done.stdout + done.stderr
    states = {line[6:18].strip(): line[:5].strip() for line in done.stdout.splitlines()}
    assert states.pop("clock") in ("ok", "note")
    assert states.pop("prefect") == "note"  # The tests' server has no password.
    assert states.pop("schedules") in ("ok", "note")  # As other tests have left the server.
    assert set(states) == {"key", "feed", "carries", "data folder", "disk", "calendar", "object store"}
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
    }.items():
        line = lines.pop(name)
        assert line.startswith("wrong"), line
        assert next_step in line
    assert lines == {}
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
