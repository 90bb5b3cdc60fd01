"""`tape` and the processes it starts by `python -m` work in a folder of files named like modules."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from shadows import cast

TAPE = Path(sys.executable).with_name("tape")
CHILD = "import subprocess, sys; from tape.start import put_own_last; put_own_last(); {}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with such files, but for the one that Python itself imports from PYTHONPATH at its start."""
    cast(tmp_path)
    (tmp_path / "sitecustomize.py").unlink()
    return tmp_path


@pytest.mark.parametrize("python_path", [None, ".", ":/nowhere", "/nowhere:", "{folder}"])
def test_the_command_imports_nothing_of_the_users(folder: Path, python_path: str | None) -> None:
    """Where the working folder is named by PYTHONPATH, by an empty entry of it, or not at all, `tape` is ours."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if python_path is not None:
        environment["PYTHONPATH"] = python_path.format(folder=folder)
    done = subprocess.run(
        [TAPE, "ls", "--data-dir", "nowhere"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    told = f"tape: {folder}/nowhere: there is no such data folder; give --data-dir or set TAPE_DATA_DIR"
    assert done.stderr.split() == told.split()


def test_what_is_started_beside_such_files_imports_none_of_them(folder: Path) -> None:
    """Prefect starts its temporary server by `python -m uvicorn` in the working folder: it finds its own modules."""
    command = "sys.exit(subprocess.run([sys.executable, '-m', 'uvicorn', '--version']).returncode)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", CHILD.format(command)],
        cwd=folder, env=os.environ | {"PYTHONPATH": f":{folder}"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Running uvicorn")


def test_what_only_python_path_has_is_still_found(tmp_path: Path) -> None:
    """A package that is installed nowhere else is imported from there, after all others."""
    (tmp_path / "only_here.py").write_text("")
    shown = "print(sys.path[-1]); import only_here"
    done = subprocess.run(
        [sys.executable, "-P", "-c", CHILD.format(shown)],
        env=os.environ | {"PYTHONPATH": str(tmp_path)}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(tmp_path)
