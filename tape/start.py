"""How does `tape` start where the user's own files are called as ours, as a library's, or as Python's?

A `tasks.py`, a `flows/` or a `queue.py` is nothing unusual. Python imports it in place of the right one where
PYTHONPATH names its folder, as each empty entry of it names the working folder (`PYTHONPATH=:/opt/lib`), and where a
process is started by `python -m` beside it, as Prefect starts its temporary server. So this comes before other imports.
"""

import os
import sys
from importlib.machinery import PathFinder


def main() -> None:
    """The console script."""
    put_own_last()
    from tape.cli.app import main as run

    run()


def put_own_last() -> None:
    """Have what PYTHONPATH and the script's folder hold come after what Python has by itself, here and in children.

    What is found there alone is still found: this package first, where it is not installed.
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
    return os.path.dirname(path)  # noqa: PTH120 - pathlib would be imported by the path that is wrong.
