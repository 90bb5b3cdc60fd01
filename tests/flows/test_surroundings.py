"""A command works whatever is in the working folder, and follows the environment's proxies and certificates."""

import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from connect_proxy import proxying
from prefect_server import ROOT
from shadows import cast

from flows.settings import load_settings
from flows.surroundings import check_feed, check_tls
from tape.cli.doctor import examine
from tasks.errors import SettingsError
from tasks.replay.generate import generate
from tasks.replay.run import serve_in_thread
from tasks.replay.server import ReplayOptions


@pytest.fixture(autouse=True)
def no_proxies() -> Iterator[None]:
    """None of the proxies that the developer's machine has."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            patch.delenv(name)
        yield


@pytest.mark.slow
def test_a_folder_full_of_files_named_like_modules_records_and_archives(tape: Any) -> None:
    """`tape record` beside a user's tasks.py, queue.py, flows/ and so on, which PYTHONPATH names: all of it is ours."""
    cast(tape.folder)
    (tape.folder / "sitecustomize.py").unlink()  # Python itself imports it, before anything of ours.
    with serve_in_thread(generate(21, 30), ReplayOptions(speed=1.0)) as server:
        ledger = tape.json(
            "record", "SPY", "--for", "2s", "--feed-url", server.url, PYTHONPATH=f":{tape.folder}:{ROOT}"
        )
    assert ledger["balances"]
    assert ledger["trades"]["archived"] > 0


def test_doctor_says_the_way_to_the_feed_and_which_variable_is_wrong(tape: Any) -> None:
    """A remote feed is checked through the recording's proxy; one that no proxy can reach is reported."""
    with (
        serve_in_thread(generate(22, 5), ReplayOptions(speed=1.0)) as server,
        proxying(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as proxy,
    ):
        for value, state, text in (
            (f"http://127.0.0.1:{proxy.port}", "ok", "feed.invalid:80, by the proxy of http_proxy, can be reached"),
            ("socks5://127.0.0.1:1", "wrong", "http_proxy: names a proxy of another kind than http://"),
        ):
            with tape.here(TAPE_FEED_URL="ws://feed.invalid", http_proxy=value, no_proxy="127.0.0.1"):
                (feed,) = [finding for finding in examine(load_settings()) if finding.name == "feed"]
            assert feed.state == state
            assert feed.text.startswith(text)
    assert [lines[0] for lines in proxy.asked] == ["CONNECT feed.invalid:80 HTTP/1.1"]


@pytest.mark.slow
def test_a_wrong_variable_is_one_line_before_anything_starts(tape: Any) -> None:
    """A proxy or a file that nobody can use: exit 2, one line with its name, no session, no traceback."""
    record, bucket = ("record", "SPY", "--for", "5s"), {"TAPE_S3_BUCKET": "market-tape", "AWS_DEFAULTS_MODE": "x"}
    elsewhere = {"TAPE_FEED_URL": "wss://ws.finnhub.io", "https_proxy": "socks5://user:secret@127.0.0.1:1"}
    certificates = {"TAPE_S3_BUCKET": "market-tape", "SSL_CERT_FILE": "/nowhere/x"}
    running = [
        (tape.start(*record, **elsewhere), "https_proxy: names a proxy of another kind than http://"),
        *(
            (tape.start(*words, **bucket), "bucket market-tape at AWS: AWS_DEFAULTS_MODE has a value that cannot be")
            for words in (record, ["archive"])
        ),
        *(
            (tape.start(*words, **certificates), "SSL_CERT_FILE: /nowhere/x cannot be used (No such file or directory)")
            for words in (record, ["archive"], ["close"], ["restore"], ["doctor"], ["demo"], ["symbols", "add", "A"])
        ),
    ]
    for process, told in running:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (2, ""), err
        (line,) = err.splitlines()
        assert line.startswith(f"tape: {told}")
        assert "secret" not in line
    assert not tape.data.exists()


def test_a_machine_that_trusts_nobody_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where no authority's certificate is found no feed over TLS could be reached; one on loopback without it can."""
    (tmp_path / "certificates").mkdir()
    monkeypatch.setenv("FINNHUB_API_KEY", "key")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "certificates"))
    monkeypatch.setattr(ssl.SSLContext, "get_ca_certs", lambda _context: [])
    with pytest.raises(SettingsError, match="SSL_CERT_FILE: neither this nor SSL_CERT_DIR has a CA certificate"):
        check_feed(load_settings(feed_url="wss://feed.invalid"))
    check_feed(load_settings(feed_url="ws://127.0.0.1:1"))
    (tmp_path / "certificates" / "0a1b2c3d.0").touch()
    check_feed(load_settings(feed_url="wss://feed.invalid"))


def test_a_file_of_tls_that_cannot_be_used_is_told_whatever_the_feed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Prefect's client reads these files even for loopback without TLS, and ends in a traceback where it cannot."""
    (tmp_path / "none.pem").write_text("no certificate\n")
    for name, value in (
        ("SSL_CERT_FILE", f"{tmp_path}/none.pem"),
        ("SSL_CERT_FILE", "/nowhere/x"),
        ("SSLKEYLOGFILE", "/nowhere/x"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(SettingsError, match=f"{name}: {value} cannot be used \\(.*\\); correct or unset it"):
                check_tls()
    check_tls()


def test_a_folder_that_nobody_knows_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home of no user, a working folder that was removed, one that a deployment names and is gone: one line each."""
    monkeypatch.setenv("FINNHUB_API_KEY", "key")
    with pytest.raises(SettingsError, match="TAPE_DATA_DIR: ~nobody-at-all/x begins with an unknown home folder"):
        load_settings(data_dir="~nobody-at-all/x")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SettingsError, match="TAPE_DATA_DIR: data is relative to the working folder, which no longer"):
        load_settings(data_dir="data")
    monkeypatch.setenv("STOCK_TRACING_FOLDER", str(tmp_path / "gone"))
    with pytest.raises(SettingsError, match=f"{tmp_path}/gone: is where this was deployed from, and cannot be entered"):
        load_settings()


def test_a_run_of_a_deployment_takes_settings_and_data_from_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Wherever Prefect starts a run: the `.env` and relative paths are those of the folder that was deployed from."""
    monkeypatch.delenv("TAPE_DATA_DIR", raising=False)
    monkeypatch.setenv("STOCK_TRACING_FOLDER", str(tmp_path))
    (tmp_path / ".env").write_text("TAPE_SYMBOLS=FROM_THE_FILE\n")
    monkeypatch.chdir("/")
    settings = load_settings()
    assert (settings.symbols, settings.data_dir) == (("FROM_THE_FILE",), tmp_path / "data")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_scheduled_run_imports_nothing_of_the_folder_it_is_deployed_from(tape: Any, until: Any) -> None:
    """Worked on beside a user's queue.py, websocket.py, tasks.py: a run records, by the `.env` that lies there."""
    deployed = (ROOT / "deployments/prefect.yaml").read_text().replace("name: tape", "name: beside-files")
    (tape.folder / "prefect.yaml").write_text(deployed.replace("name: by-hand", "name: by-hand-beside-files"))
    (tape.folder / ".env").write_text("FINNHUB_API_KEY=key\nTAPE_DATA_DIR=data\n")
    prefect = [str(Path(sys.executable).with_name("prefect"))]
    kept = {name: value for name, value in tape.server.environment.items() if name != "PYTHONPATH"}
    environment = kept | {"PWD": str(tape.folder), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    for line in (
        "work-pool create beside-files --type process",
        "--no-prompt deploy -n by-hand-beside-files --prefect-file prefect.yaml",
    ):
        subprocess.run([*prefect, *line.split()], cwd=tape.folder, env=environment, check=True, capture_output=True)
    (found,) = tape.server.ask("deployments/filter", {"deployments": {"name": {"any_": ["by-hand-beside-files"]}}})
    cast(tape.folder)
    with (
        serve_in_thread(generate(23, 60), ReplayOptions(speed=1.0)) as server,
        (tape.folder / "worker.log").open("wb") as log,
        subprocess.Popen(
            [*prefect, "worker", "start", "--pool", "beside-files"],
            cwd=tape.folder, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        ) as worker,
    ):  # fmt: skip
        try:
            with (tape.folder / ".env").open("a") as settings:
                settings.write(f"TAPE_FEED_URL={server.url}\n")
            parameters = {"symbols": ["SPY"], "end": {"record_for": "2s"}}
            run = tape.server.ask(f"deployments/{found['id']}/create_flow_run", {"parameters": parameters})["id"]

            def state() -> str:
                (found,) = tape.server.ask("flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
                return str(found["state"]["type"])

            until(lambda: state() in {"COMPLETED", "FAILED", "CRASHED"}, 120)
            assert state() == "COMPLETED", (tape.folder / "worker.log").read_text()[-3000:]
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
    assert tape.status()["state"] == "ended"
