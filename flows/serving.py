"""Runs the whole service in one process, without a worker: the schedules, their runs, and the watchdog.

Runs are child processes. When this process is stopped they are killed, not canceled: a canceled run would end its
recording, while the recorder of a killed one goes on, and the next start watches over it again.
"""

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from flows import automations, service
from flows.service import FOLDER
from flows.settings import load_settings
from flows.watchdog import LOOK_EVERY_S, Watchdog
from tasks.errors import RecorderError

log = logging.getLogger(__name__)

_SERVER_AGAIN_S = 10.0
_STOPPED, _FAILED = 0, 1


def serve(check_server: Callable[[], None], folder: Path = FOLDER) -> None:
    """Serve every deployment, and look after the trading days; runs until a signal or until Prefect's runner ends.

    `check_server` raises a RecorderError while no server answers: until one does, the watchdog alone records.
    """
    os.environ["STOCK_TRACING_FOLDER"] = str(Path.cwd())
    dog = Watchdog(folder)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: _exit(_STOPPED, dog.started))
    runner = threading.Thread(target=_run_schedules, args=(check_server, folder), name="schedules", daemon=True)
    runner.start()
    while runner.is_alive():
        dog.look(time.time_ns())
        runner.join(LOOK_EVERY_S)
    _exit(_FAILED, dog.started)


def _run_schedules(check_server: Callable[[], None], folder: Path) -> None:
    """Deploy and execute, once a server answers."""
    complaint = ""
    while True:
        try:
            check_server()
        except RecorderError as error:
            if str(error) != complaint:
                log.warning("%s; the watchdog alone records until then", error)
            complaint = str(error)
            time.sleep(_SERVER_AGAIN_S)
        else:
            break
    try:
        from prefect.runner import Runner

        # Paused schedules would stay paused, and no day would be recorded after a restart.
        runner = Runner(name="tape", pause_on_shutdown=False)
        for each in service.served(folder):
            runner.add_deployment(each)
        automations.apply(load_settings(), folder)
        log.info("serving %s", ", ".join(each.name for each in service.definitions(folder)))
        asyncio.run(runner.start())
    except Exception:
        log.exception("the schedules have ended")


def _exit(code: int, spared: Iterable[int]) -> None:
    """Kill this process's runs and exit at once; days that the watchdog started, the `spared` ones, go on."""
    for pid in _children() - set(spared):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    os._exit(code)


def _children() -> set[int]:
    found = set()
    for path in Path("/proc/self/task").glob("*/children"):
        found |= {int(pid) for pid in path.read_text().split()}
    return found
