"""Provides a Prefect API for a command, or runs its flow without Prefect.

If PREFECT_API_URL is set, that server must answer. If not, a server is started for the duration of the command,
detached from the terminal so that Ctrl-C does not stop it before the run, and stopped with the command however that
ends. If neither is possible, the same flow runs without Prefect: an orchestrator that is down is no reason not to
record.
"""

import contextvars
import logging
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from flows.settings import for_prefects_server
from tasks.errors import RecorderError, TransientError

_ANSWERS_WITHIN_S = 10.0
_STARTS_WITHIN_S = 120.0
_LOOK_EVERY_S = 0.1
_AGAIN_AFTER_S = 1.0
# It exits at the end of its standard input, which comes when its parent is gone. The user's files and variables do not
# affect what it imports.
_SERVER = """
import os, runpy, sys, threading
def watch():
    sys.stdin.buffer.read()
    os._exit(0)
threading.Thread(target=watch, daemon=True).start()
sys.argv = ["uvicorn", *sys.argv[1:]]
runpy.run_module("uvicorn", run_name="__main__", alter_sys=True)
"""
_alone = False


class NoOrchestrator(RecorderError):
    """Prefect cannot be used; the message says why and what to do."""


def is_alone() -> bool:
    """Return whether flows run without Prefect in this process."""
    return _alone


@contextmanager
def orchestrated(tell: Callable[[str], None]) -> Iterator[None]:
    """Provide an API for flows run in this block, or have them run without one and `tell` why in one line."""
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        get_current_settings,
        temporary_settings,
    )

    given = get_current_settings().api.url
    server = None
    try:
        if given is None:
            server = _Server()
            server.wait()
        else:
            check(str(given))
    except NoOrchestrator as reason:
        if server is not None:
            server.stop()
        with _without_prefect(str(reason), tell):
            yield
        return
    if server is None:
        yield
        return
    try:
        with temporary_settings({PREFECT_API_URL: server.url, PREFECT_API_AUTH_STRING: server.password}):
            yield
    finally:
        _send_what_waits()
        server.stop()


@contextmanager
def _without_prefect(reason: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Have flows run without Prefect in this block, and `tell` why."""
    global _alone
    from prefect.logging import disable_run_logger
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE, temporary_settings

    tell(f"{reason}; continuing without Prefect")
    _alone = True
    # Any code that still asks for an API fails at once, and no other server is started.
    nowhere = temporary_settings({PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False}, restore_defaults={PREFECT_API_URL})
    try:
        with nowhere, disable_run_logger():
            yield
    finally:
        _alone = False


def run(
    flow: Any, tell: Callable[[str], None], has_begun: Callable[[], bool] = lambda: False, **parameters: Any
) -> Any:
    """Run a flow with Prefect or, if there is no usable API, without; return its result.

    A server that answers but cannot store a run (its disk is full) counts as unusable. If the flow `has_begun` work
    that must be done only once, the error is raised instead.
    """
    import httpx

    if _alone:
        return flow.fn(**parameters)
    try:
        return flow(**parameters)
    except Exception as error:
        # Prefect wraps the error if the first request of a run fails.
        cause = error if isinstance(error, httpx.HTTPError) else error.__cause__
        if not isinstance(cause, httpx.HTTPError) or has_begun():
            raise
        why = f"does not answer ({type(cause).__name__})"
        if isinstance(cause, httpx.HTTPStatusError):
            why = f"answers HTTP {cause.response.status_code}"
    with _without_prefect(f"Prefect's server {why}: check its log, and whether its disk is full", tell):
        return flow.fn(**parameters)


def subflow(flow: Any, **parameters: Any) -> Any:
    """Run a flow within another one, and return its result; if Prefect's API is away, only its work is done.

    Raises what the flow raises. It may be run twice: Prefect creates a run for it, retries that for a minute, and would
    then fail the outer run.
    """
    import httpx
    from prefect import get_run_logger

    if not _alone and _is_there():
        try:
            return flow(**parameters)
        except Exception as error:
            if not isinstance(error if isinstance(error, httpx.HTTPError) else error.__cause__, httpx.HTTPError):
                raise
    if not _alone:
        get_run_logger().warning("Prefect's API is away: %s has no run of its own", flow.name)
    return flow.fn(**parameters)


def _is_there() -> bool:
    """Whether the API of this process answers."""
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    try:
        if url is not None:
            check(str(url))
    except NoOrchestrator:
        return False
    return True


def call(task: Any, *arguments: Any, **options: Any) -> Any:
    """Run a task in this thread and return its result; without Prefect, retry it as Prefect would."""
    if not _alone:
        return task(*arguments, **options)
    while True:
        try:
            return task.fn(*arguments, **options)
        except TransientError as error:
            if not task.retries:
                raise
            logging.getLogger(__name__).warning("%s; retrying", error)
            time.sleep(_AGAIN_AFTER_S)


def beside(work: Callable[[], object], wait_s: float) -> None:
    """Do what is only for the UI in a thread of its own, and wait at most so long for it.

    A client retries for minutes while the API is away; no recording may wait for that.
    """
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work,), name="api", daemon=True)
    thread.start()
    thread.join(wait_s)


@contextmanager
def meanwhile(work: Callable[[threading.Event], object], wait_s: float) -> Iterator[None]:
    """Do `work` in a thread of its own while the block runs; it gets the event that tells it to end.

    At the end of the block, wait at most so long for it: an API that hangs must not hold up what comes next.
    """
    over = threading.Event()
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(wait_s)


def completed(result: Any, message: str) -> Any:
    """Return what a flow returns to end with that message on its page; without Prefect, the result itself."""
    from prefect.states import Completed

    return result if _alone else Completed(message=message, data=result)


def submit(task: Any, *arguments: Any, after: Sequence[Any] = ()) -> Any:
    """Submit a task to run once those in `after` succeed; return its future. Without Prefect it runs at once."""
    if not _alone:
        return task.submit(*arguments, wait_for=list(after), return_state=False)
    return _Done(task, arguments, after)


class _Done:
    """The future of a task that was run without Prefect."""

    def __init__(self, task: Any, arguments: Sequence[Any], after: Sequence[Any]) -> None:
        from prefect.states import Completed, Failed

        failed = next((each.state for each in after if each.state.is_failed()), None)
        self.state = failed or Completed()
        if failed is None:
            try:
                task.fn(*arguments)
            except RecorderError as error:
                self.state = Failed(message=str(error))

    def wait(self) -> None:
        """Return at once: the task has already run."""


class _Server:
    """A Prefect server on loopback that stops with this process."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.url, self.password = f"http://127.0.0.1:{port}/api", f"tape:{secrets.token_hex(16)}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the server
        words = ["--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1", "--port", str(port)]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _SERVER, *words, "--log-level", "error", "--lifespan", "on"],
            stdin=subprocess.PIPE, stdout=self._log, stderr=self._log, start_new_session=True,
            env=for_prefects_server(self.password),
        )  # fmt: skip

    def wait(self) -> None:
        """Return once it answers. Raises NoOrchestrator if it does not."""
        end_s = time.monotonic() + _STARTS_WITHIN_S
        while self._process.poll() is None and time.monotonic() < end_s:
            with suppress(NoOrchestrator):
                check(self.url)
                return
            time.sleep(_LOOK_EVERY_S)
        raise NoOrchestrator(f"Prefect's own server did not start: {self._why()}")

    def _why(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        text = "\n".join(lines)
        if "Can't locate revision" in text:
            return "its database was created by a newer Prefect; upgrade prefect, or set PREFECT_HOME to another folder"
        for word, advice in (
            ("No space left on device", "free some space where PREFECT_HOME is"),
            ("database or disk is full", "free some space where PREFECT_HOME is"),
            ("disk I/O error", "free some space where PREFECT_HOME is"),
            ("Permission denied", "set PREFECT_HOME to a writable folder"),
            ("Read-only file system", "set PREFECT_HOME to a writable folder"),
            ("unable to open database file", "set PREFECT_HOME to a writable folder"),
            ("Not a directory", "set PREFECT_HOME to a writable folder"),
        ):
            if word in text:
                return f"{word.lower()}; {advice}"
        lines = [line for line in lines if not line.startswith("<")]  # A crash of Python ends with "<no Python frame>".
        last = lines[-1][:200] if lines else "it printed nothing in time"
        return f"{last}; check PREFECT_HOME, or set PREFECT_API_URL to a running server"

    def stop(self) -> None:
        """Stop it, and wait until it has stopped."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def check(url: str) -> None:
    """Raise NoOrchestrator, with the next step, if no API answers at that URL."""
    import httpx

    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
    try:
        status = _status(f"{url.rstrip('/')}/health")
        if status == 200:
            return
        if not parts.path.rstrip("/").endswith("/api") and _status(f"{url.rstrip('/')}/api/health") == 200:
            raise NoOrchestrator(
                f"PREFECT_API_URL: {shown} is the server's web page; its API is at {shown.rstrip('/')}/api"
            )
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        why = "it took too long" if isinstance(error, httpx.TimeoutException) else str(error) or type(error).__name__
        raise NoOrchestrator(
            f"PREFECT_API_URL: {shown} does not answer ({why}); start `prefect server start`"
        ) from None
    if status in (401, 403):
        return  # It is there; later requests report what it refuses.
    raise NoOrchestrator(f"PREFECT_API_URL: {shown} answers HTTP {status}, which no Prefect API does; correct the URL")


def is_open(url: str) -> bool:
    """Return whether that API answers without a password."""
    import httpx

    try:
        return _status(f"{url.rstrip('/')}/admin/version") == 200
    except (httpx.HTTPError, OSError):
        return False


def _status(url: str) -> int:
    import httpx

    return httpx.get(url, timeout=_ANSWERS_WITHIN_S, follow_redirects=False).status_code


def _send_what_waits() -> None:
    """Send what the run has not sent yet: at exit, with its server gone, Prefect would retry for a minute."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (EventsWorker, APILogWorker):
        with suppress(Exception):
            worker.drain_all(timeout=5)
