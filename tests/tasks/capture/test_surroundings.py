"""Files, PYTHON… variables, and secrets around a recorder do not affect it; repeated deaths are reported."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults import FaultServer, Send, StartServer, Subscribed
from recording import Answered, ask, assert_all_there, trades, wait_for
from shadows import cast

from tasks.capture import supervise
from tasks.capture.recovery import KILLED, close_killed
from tasks.capture.request import CaptureRequest
from tasks.capture.supervise import LOG_FILE, Recorder, record_of, start_or_attach
from tasks.errors import TransientError
from tasks.records.ledger import SessionRecord
from tasks.storage.store import Store

KEY = "a-very-secret-key"


@contextmanager
def recording(request: CaptureRequest) -> Iterator[Recorder]:
    """A recorder in its own process, which is ended in order."""
    recorder = start_or_attach(request, KEY)
    try:
        yield recorder
    finally:
        recorder.stop()
        list(recorder.sealed())


def records_all(store: Store, server: FaultServer, request: CaptureRequest) -> SessionRecord:
    """Return the record of a session that has received what the server sent."""
    with recording(request) as recorder:
        server.connection(0).wait_heard("pong")
    record = recorder.record()
    assert len(assert_all_there(store, record, server)) == 500
    return record


@pytest.fixture
def server(fault_server: StartServer) -> FaultServer:
    return fault_server([Subscribed("A"), Send(trades(500)), Answered()])


@pytest.mark.parametrize("by", ["the working folder", "PYTHONPATH"])
def test_no_file_of_the_users_is_imported(
    store: Store, server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Files and folders named like Python's modules, libraries, and ours do not stop a recorder in that folder."""
    cast(tmp_path)
    if by == "PYTHONPATH":
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    else:
        monkeypatch.chdir(tmp_path)
    assert records_all(store, server, ask(store.root, server.url)).outcome == "stopped"


def test_no_variable_of_the_users_keeps_it_from_recording(
    store: Store, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables that change Python, libraries, or the system do not reach a recorder or do no harm."""
    for name, value in {
        "PYTHONHOME": "/nowhere", "PYTHONWARNINGS": "error", "PYTHONSTARTUP": "/nowhere", "PYTHONINSPECT": "1",
        "PYTHONOPTIMIZE": "2", "PYTHONIOENCODING": "nonsense", "LC_ALL": "xx_YY.nonsense", "HOME": "/nowhere",
        "TMPDIR": "/nowhere", "SSLKEYLOGFILE": "/nowhere/keys", "http_proxy": "socks5://nowhere",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert records_all(store, server, ask(store.root, server.url)).outcome == "stopped"


def test_the_working_folder_may_be_gone(
    store: Store, server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recorder starts from a folder that was removed meanwhile."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert records_all(store, server, ask(store.root, server.url)).outcome == "stopped"


def test_a_recorder_has_of_our_environment_what_it_needs_and_no_secret(
    store: Store, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Certificates, proxies, language, time zone, and libraries reach it; settings and secrets never do."""
    needed = {
        "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt", "SSL_CERT_DIR": "/etc/ssl/certs", "TZ": "Asia/Tokyo",
        "LC_TIME": "C", "HTTPS_PROXY": "http://one:1", "no_proxy": "two", "All_Proxy": "http://three:3",
        "LD_LIBRARY_PATH": "/nowhere", "RES_OPTIONS": "timeout:1",
    }  # fmt: skip
    secrets = (
        "FINNHUB_API_KEY", "finnhub_api_key", "Finnhub_Api_Key", "TAPE_S3_SECRET_ACCESS_KEY",
        "tape_s3_secret_access_key", "AWS_SECRET_ACCESS_KEY", "aws_session_token", "PREFECT_API_KEY",
        "prefect_api_auth_string", "GITHUB_TOKEN", "DB_PASSWORD", "MY_LC_ALL", "TAPE_PATH", "X_HTTP_PROXY",
    )  # fmt: skip
    for name, value in needed.items():
        monkeypatch.setenv(name, value)
    for name in secrets:
        monkeypatch.setenv(name, f"secret-{name}")
    with recording(ask(store.root, server.url)) as recorder:
        pid = wait_for(recorder.status).pid
        content = Path(f"/proc/{pid}/environ").read_bytes().decode()
    environment = dict(line.split("=", 1) for line in content.split("\0") if line)
    assert environment.items() >= needed.items()
    assert environment["PATH"] == os.environ["PATH"]
    assert "secret" not in content
    assert not any(name.startswith("PYTHON") for name in environment)


def ended(request: CaptureRequest, by: signal.Signals | None = None) -> Recorder:
    """A recorder that has ended, by itself or by a signal."""
    recorder = start_or_attach(request, KEY)
    if by is not None and recorder._process is not None:
        recorder._process.send_signal(by)
    wait_for(lambda: not recorder.is_alive)
    return recorder


def test_a_recorder_that_dies_at_once_of_the_same_is_given_up_and_its_words_are_the_reason(store: Store) -> None:
    """After a few deaths of one exception with nothing recorded, the session has failed with the log's last line."""
    silent = socket.create_server(("127.0.0.1", 0))  # It answers no handshake: nothing is heard, and nothing refused.
    request = ask(store.root, f"ws://127.0.0.1:{silent.getsockname()[1]}", lanes=0)
    for _ in range(supervise._GIVE_UP_AFTER - 1):
        with pytest.raises(
            TransientError, match="died \\(exit status 1\\): TypeError: 'int' object is not iterable; see"
        ):
            ended(request).record()
    assert record_of(request) is None
    record = ended(request).record()
    reason = (
        "the recorder died (exit status 1): TypeError: 'int' object is not iterable, 5 times before it recorded "
        f"anything; see {request.folder / LOG_FILE}"
    )
    assert (record.outcome, record.error) == ("failed", reason)
    (gap,) = record.gaps
    assert (gap.symbols, gap.start_ns, gap.end_ns, gap.reason) == (
        ("A",), request.started_ns, request.deadline_ns, reason
    )  # fmt: skip
    assert record_of(request) == record


def test_one_that_is_killed_or_dies_of_something_else_is_tried_again(store: Store) -> None:
    """Kills, and deaths of differing causes, never make us give up, however often they happen."""
    request = ask(store.root, "ws://127.0.0.1:1")
    for _ in range(supervise._GIVE_UP_AFTER + 1):
        with pytest.raises(TransientError, match="died \\(SIGKILL\\)"):
            ended(request, signal.SIGKILL).record()
    broken = ask(store.root, "ws://127.0.0.1:1", lanes=0)
    for number in range(supervise._GIVE_UP_AFTER + 1):
        recorder = ended(broken)
        with (broken.folder / LOG_FILE).open("a") as log:
            log.write(f"\nword {number % 2}\n\n")
        with pytest.raises(TransientError, match=f"word {number % 2}; see"):
            recorder.record()


def test_a_session_whose_recorder_never_lived_is_one_gap(store: Store) -> None:
    """Killed before its first status, a session has received nothing from its start to its end, and says so."""
    request = ask(store.root, "ws://127.0.0.1:1")
    for _ in range(2):
        record = close_killed(store, request.session, request.started_ns + 1)
        (gap,) = record.gaps
        assert (gap.symbols, gap.start_ns, gap.end_ns, gap.reason) == (
            ("A",), request.started_ns, request.deadline_ns, KILLED
        )  # fmt: skip
        (request.folder / "session.json").unlink()  # As if it had been killed before it wrote the record.
