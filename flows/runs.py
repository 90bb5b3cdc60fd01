"""Which process executes which run, in `runs/` of the data folder: what ends a run whose process is gone.

A worker that is killed, or an API that is away when a run ends, leaves the run as Running or Cancelling for ever; the
server cannot know better. Here the machine itself says whether the process still runs, and how the run ended.
"""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import TagsContext
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
_MESSAGE_LENGTH = 2_000
# The files of the runs that this process executes, by ID; None before a run is noted.
_executed: dict[str, Path | None] = {}

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a flow: its ID at the server, its name, and the process (PID, start, boot) of a host.

    `outcome` is how its work ended, with the message that the run has then; None before that, and if it was killed.
    """

    id: str
    name: str
    process: str
    host: str
    outcome: Literal["completed", "failed"] | None = None
    message: str = ""

    @property
    def is_gone(self) -> bool:
        """Whether its process has ended; of another machine's nothing is known."""
        return self.host == socket.gethostname() and not is_running(self.process)


@dataclass(frozen=True, slots=True)
class LastPage:
    """The final page of a run (`run_page.py`), kept beside its process until the API has it."""

    key: str
    title: str
    text: str


def note_run(store: Store) -> None:
    """Note that this process executes the current run; does nothing without Prefect."""
    if flow_run.id is None:
        return
    folder = store.root / FOLDER
    folder.mkdir(exist_ok=True)
    for path, run in runs(store):
        if run.is_gone and time.time() - path.stat().st_mtime > _FORGOTTEN_AFTER_S:
            path.unlink(missing_ok=True)
            page_beside(path).unlink(missing_ok=True)
    run = Run(str(flow_run.id), flow_run.name or "", this_process(), socket.gethostname())
    path = folder / f"{UUID(run.id)}.json"
    write_whole(path, encode(run))
    if run.id in _executed:
        _executed[run.id] = path


def independent_of_api(work: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorate a flow's function, so that a run needs the API only to be shown.

    Its outcome is noted beside its process before it is reported: if the API stays away longer than Prefect's client
    tries, the watchdog reports it. Its tasks have none of its tags: for each tag Prefect asks the API for a slot before
    a task begins, and no batch may wait for that.
    """

    @wraps(work)
    def run(*arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        id = str(flow_run.id)
        if flow_run.id is None or id in _executed:  # Without Prefect, or within another flow whose API is away.
            return work(*arguments, **options)
        _executed[id] = None
        try:
            with TagsContext(current_tags=set()):
                result = work(*arguments, **options)
            _note_outcome(id, "completed", result.message if isinstance(result, State) else None)
        except Exception as error:
            _note_outcome(id, "failed", str(error))
            raise
        finally:
            del _executed[id]
        return result

    return run


def _note_outcome(id: str, outcome: Literal["completed", "failed"], message: str | None) -> None:
    path = _executed[id]
    if path is None:  # It failed before it wrote anything.
        return
    with suppress(OSError, CorruptionError):  # A full disk must not change how the run ends.
        write_whole(path, encode(replace(read(path, Run), outcome=outcome, message=(message or "")[:_MESSAGE_LENGTH])))


def keep_page(store: Store, page: LastPage) -> Path:
    """Keep the final page of the current run, and return its path; remove that once the API has the page."""
    folder = store.root / FOLDER
    folder.mkdir(exist_ok=True)
    path = page_beside(folder / f"{UUID(flow_run.id)}.json")
    write_whole(path, encode(page))
    return path


def kept_page(path: Path) -> LastPage | None:
    """Return the page that is kept beside a run's file, or None."""
    with suppress(CorruptionError, FileNotFoundError):
        return read(page_beside(path), LastPage)
    return None


def page_beside(path: Path) -> Path:
    """Return where the page of the run noted in that file is kept."""
    return path.with_suffix(".page")


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
