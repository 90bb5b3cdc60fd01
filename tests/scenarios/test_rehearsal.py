"""What `make rehearsal` shows in minutes holds in its shortest form."""

import subprocess
import sys
from pathlib import Path

import pytest

REHEARSAL = Path(__file__).parents[1] / "rehearsal/rehearsal.py"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_trading_day_with_faults_is_recorded_and_shown_as_it_is() -> None:
    """Begun by its schedule, through every fault to the early close: states, page, alarms, files, and bucket agree."""
    command = [sys.executable, str(REHEARSAL), "--seconds", "160"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1780, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    phases = [line[8:].partition(":")[0].strip() for line in done.stdout.splitlines() if line[5:8] == " s "]
    assert phases == [
        "set up", "scheduled start", "open", "feed dropped", "recorder killed", "store away", "worker and flow killed",
        "API away", "API away over the end", "closed", "alarms", "archive", "verified",
    ]  # fmt: skip
