"""The upload as a flow runs it: retried while the store is away, and without a trace of the secret."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect_server import PrefectServer

from tasks.records.names import BatchName
from tasks.storage.store import Store

SECRET = "a-secret-that-must-not-be-stored"

FLOW = """
import logging, sys
from pathlib import Path
from prefect import flow
from pydantic import SecretStr
from prefect.logging import get_run_logger
from tasks.upload.task import Bucket, upload

@flow
def send(data_dir: Path, batch: str, name: str, port: int):
    for prefix in ("slow", "refused"):
        bucket = Bucket(name=name, endpoint_url=f"http://127.0.0.1:{port}", access_key_id="k", addressing="path",
                        secret_access_key=SecretStr(%r), max_attempts=1, prefix=prefix)
        future = upload.with_options(retries=3, retry_delay_seconds=[0.01, 0.01, 0.01]).submit(data_dir, batch, bucket)
        future.wait()
        print("ended", prefix, future.state.type.value, future.state.message)
    return "both ended"

send(Path(sys.argv[1]), *sys.argv[2:4], int(sys.argv[4]))
"""


@pytest.fixture
def run_flow(tmp_path: Path, store: Store, odd_store: Any, prefect_server: PrefectServer) -> Callable[[BatchName], str]:
    """Runs the task in a flow in its own process and returns its output."""

    def run(name: BatchName) -> str:
        script = tmp_path / "flow.py"
        script.write_text(FLOW % SECRET)
        printed = subprocess.run(
            [sys.executable, script, store.root, str(name), odd_store.name, str(odd_store.port)],
            capture_output=True, text=True, cwd=Path(__file__).parents[3], timeout=110,
            env={**prefect_server.environment, "HOME": str(tmp_path), "PREFECT_LOGGING_LEVEL": "DEBUG"},
        )  # fmt: skip
        return printed.stdout + printed.stderr

    return run


def test_only_transient_errors_are_retried_and_no_secret_is_stored(
    store: Store, archived: Callable[..., BatchName], odd_store: Any, run_flow: Callable[..., str],
    prefect_server: PrefectServer,
) -> None:  # fmt: skip
    """A busy store is retried, a denial is not, and no secret is stored."""
    name = archived()
    slow = [(503, "SlowDown"), (503, "SlowDown")]

    def answer(method: str, key: str, headers: Any) -> tuple[int, str] | None:
        if method != "PUT":
            return None
        return (403, "AccessDenied") if key.startswith("refused") else slow.pop() if slow else None

    odd_store.answer = answer
    printed = run_flow(name)
    assert "ended slow COMPLETED" in printed, printed
    assert "ended refused FAILED" in printed, printed
    assert "grant these credentials" in printed
    assert len(odd_store.objects) == 2
    assert len([key for key in odd_store.puts if key.startswith("refused")]) == 1
    assert SECRET not in printed
    wanted = {"task_runs": {"name": {"any_": [f"upload {name}"]}}}
    assert sorted(each["run_count"] for each in prefect_server.ask("task_runs/filter", wanted)) == [1, 3]
    stored = prefect_server.everything()
    assert [where for where, content in stored.items() if f"upload {name}".encode() in content]
    assert not [where for where, content in stored.items() if SECRET.encode() in content]
