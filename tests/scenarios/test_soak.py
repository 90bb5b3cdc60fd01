"""Random kills and random faults, bounded: what `make soak` runs for minutes holds for seconds in the tests."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "soak"


def run(script: str, *arguments: str) -> str:
    """Run a script in its own process, because it forks, and return its output; fails if a law is broken."""
    command = [sys.executable, str(SOAK / script), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=110)
    print(ended.stdout)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_what_a_killed_writer_leaves_is_sealed_row_for_row() -> None:
    """After each of 25 random kills, every checksummed row is sealed, none is torn, and cuts are kept."""
    assert "25 kills" in run("kills.py", "--kills", "25", "--seed", "20261124")


@pytest.mark.slow
def test_a_recording_in_a_storm_holds_what_was_sent_or_says_what_it_lacks() -> None:
    """After seconds of random faults and kills, rows = sent − cut − lost in gaps, each gap with its cause."""
    printed = run("soak.py", "--seconds", "12", "--seed", "7")
    assert "all laws hold" in printed
