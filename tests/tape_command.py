"""A real Prefect server, and `tape` as a user's shell runs it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from faults import FaultServer, Send, Subscribed
from prefect_server import PrefectServer
from recording import Answered, Recording, ask, trades

from tasks.storage.store import Store
from tasks.verify.laws import Verdict, verify

# What is sent to a feed on this machine, and what must never be sent to it.
KEY, VENDORS_KEY = "the-secret-key-of-these-tests", "the-vendors-key-that-nobody-is-sent"
ROOT = Path(__file__).parents[1]


@dataclass
class Tape:
    """`tape` in a folder of the test's own, against the tests' Prefect server; the data folder and what lies there."""

    folder: Path
    server: PrefectServer
    running: "list[subprocess.Popen[str]]" = field(default_factory=list)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def store(self) -> Store:
        return Store(self.data)

    def start(self, *words: object, **settings: str) -> "subprocess.Popen[str]":
        """Start a command; its output is read by `communicate`."""
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("tape")), *map(str, words)],
            cwd=self.folder,
            env={**self.server.environment, "FINNHUB_API_KEY": VENDORS_KEY, "TAPE_REPLAY_KEY": KEY, **settings},
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

    def json(self, *words: object, **settings: str) -> Any:
        """Run a command with --json to its end, expect that it succeeds, and give what it printed."""
        return self.printed(self.start(*words, "--json", **settings))

    def printed(self, process: "subprocess.Popen[str]", code: int = 0) -> Any:
        """The object that a command with --json prints, once it has ended with that code: all that is on stdout."""
        out, err = process.communicate(timeout=90)
        assert process.returncode == code, err[-3000:]
        (line,) = out.splitlines()
        return json.loads(line)

    def status(self, data: Path | None = None) -> dict[str, Any]:
        """The newest session's status, or an empty one before the first."""
        paths = sorted((data or self.data).glob("sessions/*/status.json"))
        return json.loads(paths[-1].read_text()) if paths else {}

    def verdict(self) -> Verdict:
        """What `tape verify` says of the data folder."""
        return verify(self.store)

    def recorded_without_prefect(self, done: "subprocess.CompletedProcess[str]", said: str) -> None:
        """Check that a command recorded and archived, after one line that says why it went on without Prefect."""
        assert done.returncode == 0, done.stdout + done.stderr
        (line,) = [line for line in done.stderr.splitlines() if "continuing without Prefect" in line]
        assert said in line
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) < 12
        assert self.verdict().holds
        assert self.verdict().trades > 0
        assert not self.store.sealed_batches()

    @contextmanager
    def here(self, **settings: str) -> Iterator[None]:
        """Run flows in this process, in the test's folder, with these settings and against the tests' server."""
        from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        known = {PREFECT_API_URL: self.server.url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
        with pytest.MonkeyPatch.context() as patch, temporary_settings(known):
            for name in [name for name in os.environ if name.startswith("TAPE_")]:
                patch.delenv(name)
            patch.chdir(self.folder)
            for name, value in {"FINNHUB_API_KEY": VENDORS_KEY, "TAPE_REPLAY_KEY": KEY, **settings}.items():
                patch.setenv(name, value)
            yield


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
def sealed_session(tape: Any, fault_server: Callable[..., FaultServer]) -> Callable[[], str]:
    """Records a session of several batches into the test's data folder, all sealed and none archived: its name."""

    def record() -> str:
        tape.store.prepare()
        server = fault_server(
            [Subscribed("A"), *(step for n in range(3) for step in (Send(trades(9, 9 * n)), Answered()))]
        )
        recording = Recording(ask(tape.data, server.url, batch_bytes=300))
        recording.when(lambda status: status.trades == 27 and status.batches_sealed > 1)
        return recording.end().session

    return record


@pytest.fixture
def until() -> Callable[..., Any]:
    """Waits until a condition is true, and gives what it gave."""

    def wait(condition: Callable[[], Any], within_s: float = 60) -> Any:
        end = time.monotonic() + within_s
        while not (value := condition()):
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.02)
        return value

    return wait


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
