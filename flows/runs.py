"""Which process executes which run, in `runs/` of the data folder: what ends a run whose process is gone.

A worker that is killed, or an API that is away when a run ends, leaves the run as Running or Cancelling for ever; the
server cannot know better. Here the machine itself says whether the process still runs.
"""

import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from flows.orchestrator import beside
from tasks.errors import CorruptionError
from tasks.records.manifest import encode, read
from tasks.records.requests import is_running, this_process
from tasks.storage.store import Store, write_whole

FOLDER = "runs"
# A run of that age whose process is gone is either ended or nobody's concern any more.
_FORGOTTEN_AFTER_S = 3 * 86_400
_TAGGED_WITHIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a flow: its ID at the server, its name, and the process (PID, start, boot) of a host."""

    id: str
    name: str
    process: str
    host: str

    @property
    def is_gone(self) -> bool:
        """Whether its process has ended; of another machine's nothing is known."""
        return self.host == socket.gethostname() and not is_running(self.process)


def note_run(store: Store) -> None:
    """Note that this process executes the current run; does nothing without Prefect."""
    if flow_run.id is None:
        return
    folder = store.root / FOLDER
    folder.mkdir(exist_ok=True)
    for path, run in runs(store):
        if run.is_gone and time.time() - path.stat().st_mtime > _FORGOTTEN_AFTER_S:
            path.unlink(missing_ok=True)
    run = Run(str(flow_run.id), flow_run.name or "", this_process(), socket.gethostname())
    write_whole(folder / f"{UUID(run.id)}.json", encode(run))


def add_tags(*tags: str) -> None:
    """Add tags to the current run, so that the UI can filter by them; an API that does not answer is only logged."""
    if flow_run.id is None:
        return

    def add() -> None:
        try:
            with get_client(sync_client=True) as client:
                client.update_flow_run(flow_run.id, tags=sorted({*flow_run.tags, *tags}))
        except Exception as error:
            get_run_logger().warning("this run was not tagged: %s", type(error).__name__)

    beside(add, _TAGGED_WITHIN_S)


def runs(store: Store) -> list[tuple[Path, Run]]:
    """Return the runs that are noted, with their files; a damaged file is left out."""
    found = []
    for path in sorted((store.root / FOLDER).glob("[!.]*.json")):
        with suppress(CorruptionError, FileNotFoundError):
            found.append((path, read(path, Run)))
    return found
