"""An operator's installation of the service in a folder of its own, and its processes.

What runs is what `docs/operations.md` says: a clone of the repository, an `.env` made from `deployments/server.env`,
`prefect server start`, `tape deploy`, a worker, and the watchdog. What differs is the clone's schedule, as an operator
may change it, the exchange (`rehearsal_exchange.py`), and the database, which is PostgreSQL where that is installed.
"""

import datetime as dt
import json
import os
import secrets
import shutil
import signal
import subprocess
import sysconfig
import time
import urllib.request
import venv
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

import postgres
import rehearsal_exchange
import yaml
from prefect_server import free_port

from tasks.records.requests import is_running
from tasks.records.status import read_status
from tasks.storage.store import Store

ROOT = Path(__file__).parents[2]
STARTS_WITHIN_S = 240.0
DEPLOYMENT = "market-hours"
# Otherwise a worker looks for runs every fifteen seconds, and a run that has ended tries for a minute to report it.
_COMPRESSED = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_CLIENT_MAX_RETRIES": "3"}


@dataclass
class Installation:
    """The service in `folder`; each of its processes is started, killed, and started again by itself."""

    folder: Path
    settings: dict[str, str]
    port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: f"tape:{secrets.token_hex(16)}")
    database: postgres.Postgres | None = None
    processes: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def python(self) -> Path:
        return self.folder / "venv/bin/python"

    @property
    def clone(self) -> Path:
        return self.folder / "clone"

    @property
    def store(self) -> Store:
        return Store(self.folder / "data")

    @property
    def environment(self) -> dict[str, str]:
        """What an operator's shell has, and nothing of the developer's own settings."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TAPE_", "FINNHUB", "PREFECT_", "PYTHON", "STOCK_TRACING"))
        }
        return {**kept, "PREFECT_HOME": str(self.folder / "prefect"), "DO_NOT_TRACK": "1"}

    def install(self) -> None:
        """Clone the working tree, and make an environment that imports from it and from nothing else of ours."""
        for name in ("deployments", "flows", "tape", "tasks"):
            shutil.copytree(ROOT / name, self.clone / name, ignore=shutil.ignore_patterns("__pycache__"))
        venv.create(self.folder / "venv", with_pip=False, symlinks=True)
        (site,) = (self.folder / "venv").glob("lib/python*/site-packages")
        shutil.copy(rehearsal_exchange.__file__, site)
        paths = (self.clone, sysconfig.get_paths()["purelib"])
        (site / "installation.pth").write_text("".join(f"{each}\n" for each in paths) + "import rehearsal_exchange\n")
        command = self.folder / "venv/bin/tape"
        command.write_text(f"#!{self.python}\nfrom tape.start import main\nmain()\n")
        command.chmod(0o755)
        service = (ROOT / "deployments/server.env").read_text().replace("tape:PASSWORD", self.password)
        lines = [f"{name}={value}" for name, value in self.settings.items()]
        env = self.folder / ".env"
        env.write_text("\n".join(lines) + "\n" + service.replace(":4200", f":{self.port}"))
        env.chmod(0o600)

    def schedule(self, fires: dt.datetime, opens: dt.datetime, closes: dt.datetime) -> None:
        """Have the deployment of trading days fire at `fires`, a full minute, and the exchange trade in these hours."""
        path = self.clone / "deployments/prefect.yaml"
        listed = yaml.safe_load(path.read_text())
        (market,) = (each for each in listed["deployments"] if each["name"] == DEPLOYMENT)
        cron = f"{fires.minute} {fires.hour} {fires.day} {fires.month} *"
        market["schedules"] = [{"cron": cron, "timezone": str(fires.tzinfo), "active": True}]
        path.write_text(yaml.safe_dump(listed))
        (site,) = (self.folder / "venv").glob("lib/python*/site-packages")
        hours = {
            "zone": str(opens.tzinfo), "date": str(opens.date()), "opens": str(opens.time()),
            "closes": str(closes.time()),
        }  # fmt: skip
        (site / "hours.json").write_text(json.dumps(hours))

    def tape(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, in the folder of the `.env`."""
        return subprocess.run(
            [self.folder / "venv/bin/tape", *words], cwd=self.folder, env=self.environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=STARTS_WITHIN_S, check=False,
        )  # fmt: skip

    def start_server(self) -> None:
        """Start the server, for the first time with a database of its own; returns once it answers."""
        if self.database is None and postgres.commands() is not None:
            self.database = postgres.start(free_port())
        database = {} if self.database is None else {"PREFECT_SERVER_DATABASE_CONNECTION_URL": self.database.url}
        words = ("-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        process = self._start("server", *words, environment=database)
        end_s = time.monotonic() + STARTS_WITHIN_S
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return
            assert process.poll() is None, self.log("server")
            assert time.monotonic() < end_s, "Prefect's server did not start"
            time.sleep(0.1)

    def start_worker(self) -> None:
        """Start a worker of the pool."""
        self._start(
            "worker", "-m", "prefect", "worker", "start", "--pool", "tape", "--type", "process", environment=_COMPRESSED
        )

    def start_watchdog(self) -> None:
        """Start the watchdog."""
        self._start("watchdog", str(self.folder / "venv/bin/tape"), "watchdog", environment=_COMPRESSED)

    def _start(self, name: str, *words: str, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [self.python, *words], cwd=self.folder, env=self.environment | environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.processes[name] = process
        return process

    def kill(self, name: str) -> None:
        """SIGKILL that process alone; what it started goes on."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def log(self, name: str) -> str:
        """The end of what that process printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-20_000:]

    def executors(self) -> dict[str, bool]:
        """Whether the process that executes each run is there, by the run's ID, of all that are noted."""
        from flows.runs import runs

        return {run.id: is_running(run.process) for _, run in runs(self.store)}

    @property
    def has_given_up(self) -> bool:
        """Whether a run that the watchdog started has ended without the server's knowing: Prefect logs it so."""
        return "Finished in state Running()" in self.log("watchdog")

    def close(self) -> None:
        """End all of it, recorders and runs included."""
        from flows.runs import runs

        for name in list(self.processes):
            self.kill(name)
        for _, run in runs(self.store) if self.store.root.exists() else ():
            if is_running(run.process):
                _kill(int(run.process.partition("/")[0]))
        for path in self.store.sessions.glob("*/status.json"):
            if not path.with_name("session.json").exists():
                status = read_status(path.parent)
                if status is not None and status.boot == _boot():
                    _kill(status.pid)
        if self.database is not None:
            self.database.stop()


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def at_noon(now: dt.datetime) -> dt.datetime:
    """That time in a zone where it is about noon, so that no day ends while it is recorded."""
    ahead = max(-12, min(14, 12 - now.astimezone(dt.UTC).hour))
    return now.astimezone(ZoneInfo(f"Etc/GMT{-ahead:+d}"))
