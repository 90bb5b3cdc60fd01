"""Every attack of `make abuse`, in its short form, stays within its bounds."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_attack_is_held() -> None:
    """Under hostile feeds and files, memory and disk stay within bounds, the end is clean, and every law holds."""
    attack = [sys.executable, str(Path(__file__).with_name("abuse.py")), "--seconds", "4"]
    done = subprocess.run(attack, capture_output=True, text=True, timeout=280, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| held |") == 9
