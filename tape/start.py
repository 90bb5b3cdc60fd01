"""Starts `tape` so that the user's own files never shadow our modules, a library's, or Python's.

Users often have a `tasks.py`, a `flows/`, or a `queue.py`. Python imports it instead of the right module if PYTHONPATH
names its folder (an empty entry, as in `PYTHONPATH=:/opt/lib`, names the working folder), or if a process is started
next to it with `python -m`, as Prefect starts its temporary server. So this module runs before any other import.
"""

import os
import sys
from importlib.machinery import PathFinder


def main() -> None:
    """Run the console script."""
    put_own_last()
    from tape.cli.app import main as run

    run()


def put_own_last() -> None:
    """Move PYTHONPATH and the script's folder behind Python's own paths, here and in child processes.

    Modules that exist only there are still found; this package comes first if it is not installed.
    """
    lib = _folder_of(os.__file__)
    archive = f"{lib.replace('python3.', 'python3')}.zip"
    first = next((at for at, entry in enumerate(sys.path) if entry in (lib, archive)), 0)
    own, known = sys.path[:first], sys.path[first:]
    here = _folder_of(_folder_of(__file__))
    sys.path[:] = [*known, *sorted(own, key=lambda entry: entry != here)]
    os.environ["PYTHONSAFEPATH"] = "1"
    if PathFinder.find_spec("prefect", known) is not None:
        os.environ["PYTHONPATH"] = ""


def _folder_of(path: str) -> str:
    return os.path.dirname(path)  # noqa: PTH120 - pathlib would be imported from the wrong path.
