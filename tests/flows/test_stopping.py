"""How a recording in a terminal ends, and that it needs no orchestrator: signals, closed terminals, servers away."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from recording import ask

from flows.stopping import ended_in_order
from tasks.capture.request import own_request
from tasks.capture.supervise import Recorder, watched
from tasks.records.requests import join, requests_of
from tasks.replay.generate import generate
from tasks.replay.run import serve_in_thread
from tasks.replay.server import ReplayOptions
from tasks.storage.store import Store

TAPE = str(Path(sys.executable).with_name("tape"))


class Terminal:
    """A command on a terminal of its own, as a shell starts it: its process leads the foreground group."""

    def __init__(self, words: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.pid, self.master = pty.fork()
        if not self.pid:
            os.chdir(folder)
            os.execve(words[0], words, environment)
        self.shown = b""

    def press(self, key: bytes) -> None:
        """Type a key: the terminal sends the signal of Ctrl-C to the whole group."""
        os.write(self.master, key)

    def close(self) -> None:
        """Close the window."""
        os.close(self.master)

    def read(self) -> None:
        with suppress(OSError):
            while select.select([self.master], [], [], 0.02)[0] and (some := os.read(self.master, 65_536)):
                self.shown += some

    def ended(self, within_s: float) -> int:
        """The exit status, once it has ended; what it shows is read meanwhile."""
        end_s = time.monotonic() + within_s
        while time.monotonic() < end_s:
            self.read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"it does not end: {self.shown.decode(errors='replace')[-2000:]}")


@pytest.fixture
def terminal(tape: Any) -> Iterator[Callable[..., Terminal]]:
    """Starts commands of `tape` on terminals; what a failing test leaves is killed."""
    started: list[Terminal] = []

    def start(*words: str, **settings: str) -> Terminal:
        environment = {**tape.server.environment, "FINNHUB_API_KEY": "a-key", "TERM": "xterm", **settings}
        environment = {name: value for name, value in environment.items() if value}
        started.append(Terminal([TAPE, *words], tape.folder, environment))
        return started[-1]

    yield start
    for each in started:
        with suppress(OSError):
            os.kill(each.pid, signal.SIGKILL)
            os.waitpid(each.pid, 0)


def servers_of(home: Path) -> list[int]:
    """The Prefect servers that run with that home."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"PREFECT_HOME={home}".encode() in path.read_bytes().split(b"\0") and b"create_app" in (
                path.with_name("cmdline").read_bytes()
            ):
                found.append(int(path.parent.name))
    return found


def record_of(tape: Any) -> Any:
    (path,) = tape.data.glob("sessions/*/session.json")
    return json.loads(path.read_text())


def test_ctrl_c_in_a_terminal_seals_archives_and_ends(
    tape: Any, until: Any, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    """With a server of the command's own: Ctrl-C, sent to the whole group, ends all in order and leaves no server."""
    home = tmp_path / "home"
    with serve_in_thread(generate(31, 120), ReplayOptions(speed=1.0)) as server:
        run = terminal(
            "record",
            "SPY",
            "NVDA",
            "--for",
            "10m",
            "--feed-url",
            server.url,
            PREFECT_API_URL="",
            PREFECT_HOME=str(home),
        )
        until(lambda: run.read() or tape.status().get("trades", 0) > 20, 100)
        assert servers_of(home)
        run.press(b"\x03")
        assert run.ended(60) == 0, run.shown.decode(errors="replace")[-3000:]
    assert b"the ledger balances" in run.shown
    assert b"Traceback" not in run.shown
    assert record_of(tape)["outcome"] == "stopped"
    assert tape.verdict().holds
    assert not tape.store.sealed_batches()
    assert servers_of(home) == []


@pytest.mark.slow
def test_a_killed_command_leaves_no_server_behind(
    tape: Any, until: Any, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    """Kill -9 of a command that had started a server of its own: the server ends by itself, the recorder records on."""
    home = tmp_path / "home"
    with serve_in_thread(generate(32, 120), ReplayOptions(speed=1.0)) as server:
        run = terminal(
            "record", "SPY", "--for", "10m", "--feed-url", server.url, PREFECT_API_URL="", PREFECT_HOME=str(home)
        )
        until(lambda: run.read() or tape.status().get("trades", 0) > 5, 100)
        os.kill(run.pid, signal.SIGKILL)
        run.ended(10)
        until(lambda: servers_of(home) == [], 15)
        seen = tape.status()["trades"]
        until(lambda: tape.status()["trades"] > seen)
        os.kill(tape.status()["pid"], signal.SIGTERM)
        until(lambda: list(tape.data.glob("sessions/*/session.json")))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGTERM", "SIGHUP", "closed"])
def test_a_termination_and_a_closed_terminal_end_it_as_ctrl_c_does(
    tape: Any, until: Any, terminal: Callable[..., Terminal], how: str
) -> None:
    """SIGTERM, SIGHUP, and the window that is closed: sealed, archived, and the run is Completed in Prefect."""
    with serve_in_thread(generate(33, 120), ReplayOptions(speed=1.0)) as server:
        run = terminal("record", "SPY", "NVDA", "--for", "10m", "--feed-url", server.url)
        until(lambda: run.read() or tape.status().get("trades", 0) > 10, 60)
        if how == "closed":
            run.close()
        else:
            os.kill(run.pid, getattr(signal, how))
        assert run.ended(60) == (1 if how == "closed" else 0), run.shown.decode(errors="replace")[-3000:]
    assert record_of(tape)["outcome"] == "stopped"
    assert tape.verdict().holds
    assert not tape.store.sealed_batches()


def test_a_second_ctrl_c_leaves_at_once(tape: Any, until: Any, terminal: Callable[..., Terminal]) -> None:
    """Whoever presses Ctrl-C twice is not kept waiting; what was received is sealed by the recorder all the same."""
    with serve_in_thread(generate(34, 120), ReplayOptions(speed=1.0)) as server:
        run = terminal("record", "SPY", "--for", "10m", "--feed-url", server.url)
        until(lambda: run.read() or tape.status().get("trades", 0) > 5, 60)
        run.press(b"\x03")
        until(lambda: run.read() or b"a second signal exits at once" in run.shown, 20)
        run.press(b"\x03")
        assert run.ended(5) == 130
        until(lambda: list(tape.data.glob("sessions/*/session.json")), 30)


def test_that_once_more_leaves_at_once_is_said_when_the_recorder_has_been_told(store: Store) -> None:
    """Whoever presses Ctrl-C again as soon as they may leaves no recorder that goes on until its deadline."""
    request = ask(store.root, "ws://127.0.0.1:1")
    join(request.folder, own_request(request), request.started_ns)
    withdrawn, recorder = list[bool](), Recorder(request, None)
    watched.append(recorder)
    try:
        with ended_in_order(
            lambda _: withdrawn.extend(each.withdrawn_ns is not None for each in requests_of(request.folder))
        ):
            signal.raise_signal(signal.SIGTERM)
    finally:
        watched.remove(recorder)
    assert withdrawn == [True]


WITHOUT = {
    "an API that is away": ({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "PREFECT_API_URL: http://127.0.0.1:9/api"),
    "a home that cannot be": ({"PREFECT_API_URL": "", "PREFECT_HOME": "/dev/null/home"}, "set PREFECT_HOME"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "said"), WITHOUT.values(), ids=WITHOUT.keys())
def test_an_orchestrator_that_is_away_is_no_reason_not_to_record(
    tape: Any, settings: dict[str, str], said: str
) -> None:
    """Recorded and archived without Prefect, after one line that says which variable is wrong and what to do."""
    environment = {**tape.server.environment, "FINNHUB_API_KEY": "a-key", **settings}
    with serve_in_thread(generate(35, 60), ReplayOptions(speed=1.0)) as server:
        done = subprocess.run(
            [TAPE, "record", "SPY", "NVDA", "--for", "4s", "--feed-url", server.url, "--batch-for", "1s"],
            env={name: value for name, value in environment.items() if value}, cwd=tape.folder,
            capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    tape.recorded_without_prefect(done, said)


def test_the_address_of_the_page_is_told_from_that_of_the_api(tape: Any) -> None:
    """PREFECT_API_URL without its `/api` is recognised, here and by the doctor, and the right one is named."""
    page = tape.server.url.removesuffix("/api")
    done = tape.run("doctor", PREFECT_API_URL=page)
    (line,) = [line for line in done.stdout.splitlines() if line[6:].startswith("prefect")]
    assert line.startswith("wrong")
    assert f"its API is at {page}/api" in line


@pytest.mark.slow
def test_a_proxy_is_not_asked_for_this_machine(tape: Any) -> None:
    """With proxies of every name set and no exceptions, feed, Prefect and recorder on loopback are reached directly."""
    proxies = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https", "all")}
    with serve_in_thread(generate(36, 60), ReplayOptions(speed=1.0)) as server:
        done = tape.run(
            "record", "SPY", "--for", "3s", "--feed-url", server.url, **proxies,
            **{name.upper(): value for name, value in proxies.items()},
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "without Prefect" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("word", "says"), [("archive", "nothing to archive"), ("close", "no day to close")])
def test_nothing_to_do_is_said_without_a_server(tape: Any, word: str, says: str) -> None:
    """Where nothing waits, no server is started or asked: not even one that is away is missed."""
    tape.store.prepare()
    done = tape.run(word, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert (done.returncode, done.stderr) == (0, "")
    assert says in done.stdout
