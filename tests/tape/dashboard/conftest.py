"""A feed that is a process of its own, and an archiver that works while a session is recorded and watched."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import archive_sealed

from tasks.replay.generate import generate
from tasks.replay.tape_file import write_tape
from tasks.storage.store import Store

_FEED = """
import sys
from pathlib import Path
from tasks.replay.run import run
from tasks.replay.server import ReplayOptions
run(Path(sys.argv[1]), options=ReplayOptions(speed=float(sys.argv[2])))
"""


@pytest.fixture
def feed_process(tmp_path: Path) -> Iterator[Callable[..., tuple[str, int]]]:
    """Starts a replay of a generated tape as a process: `feed_process(seconds, speed=…) -> (url, pid)`."""
    started: list[subprocess.Popen[str]] = []

    def start(seconds: float, speed: float = 1.0) -> tuple[str, int]:
        tape = tmp_path / "tape.csv"
        write_tape(generate(7, seconds), tape)
        command = [sys.executable, "-c", _FEED, str(tape), str(speed)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip(), process.pid

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def archiving(store: Store, tmp_path: Path) -> Callable[..., object]:
    """Archives sealed batches as they come, while the block runs; yields the folder of copies of their journals."""

    @contextmanager
    def archive() -> Iterator[Path]:
        copies, over = tmp_path / "journals", threading.Event()
        copies.mkdir(exist_ok=True)

        def work() -> None:
            while not over.wait(0.05):
                for name in store.sealed_batches():
                    with suppress(FileNotFoundError):
                        shutil.copy(store.sealed / name.sealed, copies / name.sealed)
                        archive_sealed(store, name)

        thread = threading.Thread(target=work, name="archiver")
        thread.start()
        try:
            yield copies
        finally:
            over.set()
            thread.join()

    return archive
