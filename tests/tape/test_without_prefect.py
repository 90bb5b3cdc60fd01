"""Commands that run no flow work even if Prefect cannot be imported."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SealBatch

from tasks.compress.parquet import compress
from tasks.storage.store import Store
from tasks.validate.schema import Limits
from tasks.validate.split import split

# Where a module is None in `sys.modules`, its import raises ModuleNotFoundError.
WITHOUT_PREFECT = "import sys; sys.modules['prefect'] = None; from tape.cli.app import main; main()"
LINES = [b"1,1,1764081000000000000,1764081000000000000,SPY,10.5,3,\n"]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("ls", 0),
        ("show 2025-11-25", 0),
        ("bars SPY --date 2025-11-25", 0),
        ("query select(count(*))from(trades)", 0),
        ("export tape.csv", 0),
        ("verify", 1),  # Of this session the batch is all there is.
        ("symbols list", 1),
        ("symbols add IBM", 1),
        ("symbols remove IBM", 1),
        ("status", 1),
        ("watch", 1),
        ("dashboard --host 0.0.0.0", 2),  # It needs a token.
        ("restore", 1),  # No store answers on that port.
        ("verify --remote", 1),
    ],
)
def test_a_command_that_runs_no_flow_needs_no_prefect(
    store: Store, sealed_batch: SealBatch, tmp_path: Path, words: str, status: int
) -> None:
    """Each does its work, or says in one line what is missing, without Prefect's seconds of start-up."""
    name = sealed_batch(LINES, date="2025-11-25")
    split(store, name, Limits(10**18, 10**18))
    compress(store, name)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PREFECT, *words.split(), "--data-dir", str(store.root)],
        cwd=tmp_path,
        env={
            "TAPE_S3_BUCKET": "tape-test", "TAPE_S3_ENDPOINT_URL": "http://127.0.0.1:9", "TAPE_S3_ACCESS_KEY_ID": "id",
            "TAPE_S3_SECRET_ACCESS_KEY": "secret",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )  # fmt: skip
    assert "prefect" not in done.stderr
    assert done.returncode == status, done.stderr
