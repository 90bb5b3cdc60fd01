"""The service runs in one process as it does with a worker, and the units for both ways are sound."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.service import definitions, served
from tasks.records.requests import is_running, requests_of
from tasks.replay.generate import generate
from tasks.replay.run import serve_in_thread
from tasks.replay.server import ReplayOptions

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "deployments/systemd").glob("*.*"))
# An exchange that is always open: the one deployment that is on should be recording now.
ALWAYS = {"TAPE_CALENDAR": "24/7", "TAPE_OPEN_BEFORE": "0s", "TAPE_CLOSE_AFTER": "0s", "TAPE_SYMBOLS": "SPY,NVDA"}


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units as they are installed, in this checkout instead of /opt, with this interpreter's commands."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here (Debian: apt-get install systemd)")
    folder = tmp_path / "units"
    folder.mkdir()
    commands = Path(sys.executable).parent
    for unit in UNITS:
        text = unit.read_text().replace("/opt/stock-tracing/.venv/bin", str(commands))
        (folder / unit.name).write_text(text.replace("/opt/stock-tracing", str(ROOT)))
    return sorted(folder.iterdir())


def test_the_units_are_sound(units: list[Path]) -> None:
    """`systemd-analyze verify` finds no unknown setting, missing command or loop in any unit."""
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_units_are_hardened(units: list[Path]) -> None:
    """`systemd-analyze security` rates the exposure of each service at 2 or less, of 10."""
    services = [unit for unit in units if unit.suffix == ".service"]
    assert len(services) == 5
    for unit in services:
        command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:]


def test_no_unit_ends_a_recorder() -> None:
    """What starts recorders is stopped alone: systemd would end all that it has started."""
    for unit in UNITS:
        if unit.stem in ("tape-worker", "tape-watchdog", "tape-serve"):
            assert "\nKillMode=process\n" in unit.read_text()


def test_what_is_served_is_what_is_deployed() -> None:
    """Each deployment of the file is served under its name, with its schedules, parameters and tags."""
    for wanted, found in zip(definitions(), served(), strict=True):
        assert (found.name, found.tags, found.parameters) == (wanted.name, list(wanted.tags), wanted.parameters)
        assert found.entrypoint == wanted.entrypoint
        schedules = [(each.schedule.cron, each.schedule.timezone, each.active) for each in found.schedules]
        assert schedules == [(each.cron, each.timezone, each.active) for each in wanted.schedules]
        assert found.work_pool_name is None


@pytest.fixture
def own_server(tape: Any, tmp_path: Path) -> Iterator[None]:
    """A Prefect server of this test's own: what is served there is no other test's."""
    tape.server = type(tape.server)(tmp_path / "prefect")
    yield
    tape.server.stop()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("own_server")
def test_one_process_serves_records_and_is_restarted_without_a_gap(tape: Any, until: Any) -> None:
    """Without a server the day is recorded; with one, runs are served; a restart leaves the recorder at its work."""
    with serve_in_thread(generate(71, 600), ReplayOptions(speed=1.0)) as server:
        settings = {**ALWAYS, "TAPE_FEED_URL": server.url, "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
        first = start(tape, settings)
        until(lambda: tape.status().get("trades", 0) > 50)  # No server answers yet.
        recorder = tape.status()["pid"]
        tape.server.start()
        deployed = until(lambda: deployments(tape))
        assert set(deployed) == {each.name for each in definitions()}
        run = tape.server.ask(f"deployments/{deployed['safety-net']['id']}/create_flow_run", {})
        until(lambda: state(tape, run["id"]) == "COMPLETED", 120)
        first.send_signal(signal.SIGTERM)
        assert first.wait(30) == 0
        assert not any(each["paused"] for each in deployments(tape).values())
        second = start(tape, settings)
        again = tape.server.ask(f"deployments/{deployed['safety-net']['id']}/create_flow_run", {})
        until(lambda: state(tape, again["id"]) == "COMPLETED", 120)
        assert tape.status()["pid"] == recorder
        (session,) = tape.data.glob("sessions/*")
        (request,) = requests_of(session)
        assert is_running(request.process)
        assert tape.status()["gaps"] == 0
        second.send_signal(signal.SIGTERM)
        second.wait(30)
        subprocess.run(["kill", "-9", request.process.partition("/")[0]], check=True)


def start(tape: Any, settings: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start `tape serve`; what it starts outlives it, and keeps its output, which is a file for that."""
    with (tape.folder / "serve.log").open("ab") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("tape")), "serve"],
            cwd=tape.folder, env={**tape.server.environment, **settings},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    tape.running.append(process)
    return process


def deployments(tape: Any) -> dict[str, Any]:
    """The deployments at the server by their names, once all are there."""
    found = {each["name"]: each for each in tape.server.ask("deployments/filter", {})}
    return found if len(found) == len(definitions()) else {}


def state(tape: Any, run: str) -> str:
    """The state of a run."""
    (found,) = tape.server.ask("flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    return str(found["state"]["type"])
