"""A real Prefect server of the tests' own, one for all workers of a run, and a free port for it."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import postgres

ROOT = Path(__file__).parents[1]


@dataclass
class PrefectServer:
    """A Prefect server of the tests' own: its home, its port (a free one), its process; SQLite if no `database`."""

    home: Path
    port: int = field(default_factory=lambda: free_port())
    database: str = ""
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def environment(self) -> dict[str, str]:
        """What a client of it needs, and nothing of the developer's own settings."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("TAPE_", "FINNHUB", "PREFECT_"))
        }
        return {
            **kept,
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_CLIENT_MAX_RETRIES": "8",
            "PYTHONPATH": str(ROOT),
        }

    def start(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        database = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": self.database} if self.database else {}
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)],
                env=self.environment | database,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + 120
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=2):
                return
            assert self.process.poll() is None, (self.home / "server.log").read_text()[-2000:]
            assert time.monotonic() < end, "Prefect's server did not start"
            time.sleep(0.2)

    def stop(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, 9)
            self.process.wait()
            self.process = None

    def everything(self) -> dict[str, bytes]:
        """All that it has stored, by name: its files, and its database as SQL."""
        found = {str(path): path.read_bytes() for path in self.home.rglob("*") if path.is_file()}
        return found | ({"database": postgres.dump(self.database)} if self.database else {})

    def ask(self, path: str, body: Mapping[str, Any], method: str = "POST") -> Any:
        """The server's answer to that request; asked again while its database is busy (503), as its clients do."""
        request = urllib.request.Request(
            f"{self.url}/{path}", json.dumps(body).encode(), {"content-type": "application/json"}, method=method
        )
        end = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > end:
                    raise
            time.sleep(0.5)


@contextmanager
def shared(folder: Path) -> Iterator[PrefectServer]:
    """The server of this folder, started by whoever comes first and ended by whoever leaves last.

    A server takes ten seconds of CPU to start, and some while it runs: each worker with its own would be a minute more.
    """
    state = folder / "prefect.json"
    with _locked(folder):
        known = json.loads(state.read_text()) if state.exists() else {"users": 0}
        if not known["users"]:
            known = _started(folder / "prefect") | {"users": 0}
        server = PrefectServer(folder / "prefect", known["port"], known["database"])
        state.write_text(json.dumps(known | {"users": known["users"] + 1}))
    try:
        yield server
    finally:
        with _locked(folder):
            known = json.loads(state.read_text())
            state.write_text(json.dumps(known | {"users": known["users"] - 1}))
            if known["users"] == 1:
                with suppress(ProcessLookupError):
                    os.killpg(known["pid"], 9)
                if known["postgres"]:
                    postgres.Postgres(Path(known["postgres"])).stop()


def _started(home: Path) -> dict[str, Any]:
    """Start a server, on PostgreSQL where that is installed: SQLite answers 503 while several processes write."""
    database = postgres.start(free_port()) if postgres.commands() else None
    server = PrefectServer(home, database=database.url if database else "")
    server.start()
    assert server.process is not None
    return {
        "port": server.port, "pid": server.process.pid, "database": server.database,
        "postgres": str(database.folder) if database else "",
    }  # fmt: skip


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "prefect.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def free_port() -> int:
    """A port of loopback that nobody holds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
