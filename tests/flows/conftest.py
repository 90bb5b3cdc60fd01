"""A real Prefect server, and `tape` as a user's shell runs it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

KEY = "the-secret-key-of-these-tests"
ROOT = Path(__file__).parents[2]


@dataclass
class PrefectServer:
    """A Prefect server of the tests' own: its home, its port, its process."""

    home: Path
    port: int
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
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)],
                env=self.environment,
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

    def ask(self, path: str, body: Mapping[str, Any]) -> Any:
        """The server's answer to a POST."""
        request = urllib.request.Request(
            f"{self.url}/{path}", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """One Prefect server for all tests of flows."""
    server = PrefectServer(tmp_path_factory.mktemp("prefect"), free_port())
    server.start()
    yield server
    server.stop()


@dataclass
class Tape:
    """`tape` in a folder of the test's own, against the tests' Prefect server."""

    folder: Path
    server: PrefectServer
    settings: dict[str, str] = field(default_factory=dict)
    running: "list[subprocess.Popen[str]]" = field(default_factory=list)

    def start(self, *words: object, **settings: str) -> "subprocess.Popen[str]":
        """Start a command; its output is read by `communicate`."""
        environment = {**self.server.environment, "FINNHUB_API_KEY": KEY, **self.settings, **settings}
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *map(str, words)],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(process)
        return process

    def run(self, *words: object, **settings: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        process = self.start(*words, **settings)
        out, err = process.communicate(timeout=90)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def json(self, *words: object, code: int = 0, **settings: str) -> Any:
        """Run a command with --json, expect that exit code, and give the object of its last line."""
        done = self.run(*words, "--json", **settings)
        assert done.returncode == code, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def tape(tmp_path: Path, prefect_server: PrefectServer) -> Iterator[Tape]:
    """Runs `tape` with the test's folder as its working folder; what a failing test leaves is killed."""
    it = Tape(tmp_path, prefect_server)
    yield it
    for process in it.running:
        if process.poll() is None:
            process.kill()
        process.communicate()
    for status in tmp_path.glob("**/sessions/*/status.json"):
        if not (status.parent / "session.json").exists():
            with suppress(ProcessLookupError):
                os.kill(json.loads(status.read_text())["pid"], 9)


@pytest.fixture
def bucket_settings(object_store: Any) -> dict[str, str]:
    """The settings that upload to the test's own bucket."""
    return {
        "TAPE_S3_BUCKET": object_store.bucket,
        "TAPE_S3_ENDPOINT_URL": object_store.server.endpoint_url,
        "TAPE_S3_REGION": "us-east-1",
        "TAPE_S3_ADDRESSING": "path",
        "TAPE_S3_ACCESS_KEY_ID": object_store.server.access_key_id,
        "TAPE_S3_SECRET_ACCESS_KEY": object_store.server.secret_access_key,
    }
