"""A recording continues while Prefect fails: its home's disk is full, or its server returns errors."""

import http.server
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.replay.generate import generate
from tasks.replay.run import serve_in_thread
from tasks.replay.server import ReplayOptions

TAPE = str(Path(sys.executable).with_name("tape"))


def may_mount() -> bool:
    """Return whether this user can mount a small disk in a namespace."""
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", "/mnt"]
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="needs `unshare -rm` to mount a small disk")
def test_a_full_disk_under_prefects_home_is_no_reason_not_to_record(tape: Any) -> None:
    """If Prefect's server has no space for its database, the session is still recorded; one line says why."""
    home = tape.folder / "home"
    home.mkdir()
    environment = {name: value for name, value in tape.server.environment.items() if name != "PREFECT_API_URL"}
    with serve_in_thread(generate(37, 60), ReplayOptions(speed=1.0)) as server:
        record = f"{TAPE} record SPY NVDA --for 4s --batch-for 1s --feed-url {server.url}"
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", f"mount -t tmpfs -o size=1400k tmpfs {home} && exec {record}"],
            env={**environment, "PREFECT_HOME": str(home)}, cwd=tape.folder, capture_output=True, text=True,
            timeout=170, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    tape.recorded_without_prefect(done, "PREFECT_HOME")


@pytest.fixture
def failing_api() -> Iterator[str]:
    """An API that reports itself healthy and fails at everything else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            is_health = self.path == "/api/health"
            body = b"true" if is_health else b'{"exception_message":"Internal Server Error"}'
            self.send_response(200 if is_health else 500)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = answer

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/api"
    server.shutdown()


@pytest.mark.slow
def test_a_server_that_fails_is_no_reason_not_to_record(tape: Any, failing_api: str) -> None:
    """A server that answers but cannot create runs is reported in one line; recording and archiving go on."""
    with serve_in_thread(generate(38, 60), ReplayOptions(speed=1.0)) as server:
        done = tape.run(
            "record", "SPY", "NVDA", "--for", "4s", "--batch-for", "1s", "--feed-url", server.url,
            PREFECT_API_URL=failing_api,
        )  # fmt: skip
    tape.recorded_without_prefect(done, "answers HTTP 500")
