"""Who may see the page: names, origins, tokens, and prefixes, against the real server."""

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from browser import OpenTab, generated
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tasks.storage.store import Store

TOKEN = "a-token-of-these-tests-0123456789"
SOCKET = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
POLLING = "/_nicegui_ws/socket.io/?EIO=4&transport=polling"


@pytest.fixture(scope="module")
def open_url() -> Iterator[str]:
    """A page without a token, shared by the module's tests."""
    with generated() as url:
        yield url


@pytest.fixture(scope="module")
def locked_url() -> Iterator[str]:
    """A page with a token below a prefix, shared by the module's tests."""
    with generated(token=TOKEN, prefix="/tape") as url:
        yield url


def ask(url: str, path: str, method: str = "GET", body: str | None = None, **headers: str) -> tuple[int, Any, str]:
    """One request with exactly these headers: status, headers, and text of the answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, given)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200), ("localhost:9999", 200), ("[::1]:80", 200), ("LOCALHOST", 200), ("evil.example", 403),
        ("127.0.0.1.evil.example", 403), ("127.0.0.1@evil.example", 403), ("", 403), ("127.0.0.1; script-src *", 403),
    ],
)  # fmt: skip
def test_only_names_that_are_served_are_answered(open_url: str, host: str, status: int) -> None:
    """A page that has its own name resolve to this machine reads nothing; a port forwarded elsewhere works."""
    assert ask(open_url, "/", Host=host)[0] == status
    assert ask(open_url, POLLING, Host=host)[0] == status


@pytest.mark.parametrize("origin", ["http://evil.example", "https://127.0.0.1:1", "null", "http://localhost:3000"])
def test_a_foreign_page_is_refused(open_url: str, origin: str) -> None:
    """Another page's requests, also one of another port of this machine, are refused, sockets and polling included."""
    assert ask(open_url, "/", Origin=origin)[0] == 403
    assert ask(open_url, POLLING, Origin=origin)[0] == 403
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws{open_url.removeprefix('http')}{SOCKET}", origin=origin)  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403


def test_the_pages_own_socket_is_let_in(open_url: str) -> None:
    """Its own origin is accepted, no origin is not, and neither is a foreign Host."""
    address = f"ws{open_url.removeprefix('http')}{SOCKET}"
    with connect(address, origin=open_url) as websocket:  # type: ignore[arg-type]
        assert str(websocket.recv(timeout=60)).startswith("0{")
    with pytest.raises(InvalidStatus):
        connect(address)
    with pytest.raises(InvalidStatus):
        connect(address, origin="http://evil.example", additional_headers={"Host": "evil.example"})  # type: ignore[arg-type]
    assert ask(open_url, POLLING, "POST", "2")[0] == 403


def test_the_page_may_talk_to_this_server_alone(open_url: str) -> None:
    """Its policy names no other host, no page may frame it, and no proxy's header moves its scripts."""
    status, headers, text = ask(open_url, "/", X_Forwarded_Prefix="/evil")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    own = urlsplit(open_url).netloc
    assert f"connect-src 'self' ws://{own} wss://{own};" in policy
    assert "frame-ancestors 'none'" in policy
    assert "https:" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "/evil" not in text
    assert "http://" not in text.replace("http://www.w3.org/", "")


def test_the_health_route_needs_nothing(locked_url: str) -> None:
    """It says that the server runs, and nothing else, to whoever asks."""
    assert ask(locked_url, "/healthz", Host="10.0.0.7")[::2] == (200, "ok\n")


def test_metrics_are_read_with_the_token(locked_url: str, open_url: str) -> None:
    """Prometheus sends it as a bearer; without it there is no metric."""
    assert ask(locked_url, "/metrics")[0] == 401
    assert ask(locked_url, "/metrics", Authorization="Bearer wrong")[0] == 401
    status, _, text = ask(locked_url, "/metrics", Authorization=f"Bearer {TOKEN}")
    assert status == 200
    assert "tape_trades_total{" in text
    assert "tape_up{" in ask(open_url, "/metrics")[2]


def test_without_the_token_nothing_is_shown(locked_url: str) -> None:
    """Page, scripts, sockets, and downloads ask for it; a wrong one is refused and not repeated."""
    for path in ("/", "/archive", "/download?symbol=A", "/_nicegui_ws/socket.io/?EIO=4&transport=polling"):
        status, _, text = ask(locked_url, path)
        assert status == 401
        assert "AAPL" not in text
    for wrong in ("wrong", TOKEN[:-1], "é", ""):
        status, headers, text = ask(locked_url, "/", "POST", f"token={wrong}", Origin=locked_url)
        assert status == 401
        assert "Set-Cookie" not in headers
        assert "not the token" in text
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws{locked_url.removeprefix('http')}/tape{SOCKET}", origin=locked_url)  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("prefix", ["/tape", ""])
@pytest.mark.parametrize("way", ["form", "address"])
def test_the_token_is_exchanged_for_a_cookie(locked_url: str, way: str, prefix: str) -> None:
    """By a form or in the address: then it is gone from there, and the cookie, which is not it, opens the page."""
    if way == "form":
        status, headers, _ = ask(locked_url, f"{prefix}/?symbol=A", "POST", f"token={TOKEN}", Origin=locked_url)
    else:
        status, headers, _ = ask(locked_url, f"{prefix}/?token={TOKEN}&symbol=A")
    assert (status, headers["Location"]) == (303, "/tape/?symbol=A")
    cookie = headers["Set-Cookie"]
    assert TOKEN not in cookie
    assert {"HttpOnly", "SameSite=strict", "Path=/tape"} <= set(cookie.split("; "))
    assert ask(locked_url, "/tape/", Cookie=cookie.split(";")[0])[0] == 200
    assert ask(locked_url, "/tape/", Cookie=cookie.split(";")[0][:-1] + "x")[0] == 401


def test_a_form_of_a_foreign_page_is_refused(locked_url: str) -> None:
    """Even with the right token."""
    assert ask(locked_url, "/tape/", "POST", f"token={TOKEN}", Origin="http://evil.example")[0] == 403


@pytest.mark.parametrize("path", ["/tape/", "/"])
def test_proxies_may_remove_the_prefix_or_not(locked_url: str, path: str) -> None:
    """The same page below the same prefix, whichever way the proxy asks for it."""
    status, _, text = ask(locked_url, path, Authorization=f"Bearer {TOKEN}")
    assert status == 200
    assert 'src="/tape/_nicegui/' in text
    assert 'src="/_nicegui/' not in text


def test_a_browser_opens_the_page_with_the_token(locked_url: str, tab: OpenTab) -> None:
    """The form leads to the live page; the token is in no address of the history."""
    # The form's own status, 401, is one error in the browser's console.
    it = tab(f"{locked_url}/tape/", expect_errors=True)
    it.page.locator("input[type=password]").fill(TOKEN)
    it.page.keyboard.press("Enter")
    it.live()
    assert TOKEN not in it.page.url
    assert [error for error in it.errors if "401" not in error] == []


@pytest.fixture
def tape(tmp_path: Path, store: Store) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs `tape dashboard` to its end, which comes at once if it refuses to start."""

    def run(*words: str, program: str = "from tape.start import main; main()", **settings: str) -> Any:
        return subprocess.run(
            [sys.executable, "-c", program, "dashboard", "--data-dir", store.root, *words],
            cwd=tmp_path, env={"PATH": "/usr/bin:/bin", **settings}, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=60,
        )  # fmt: skip

    return run


def test_other_machines_need_a_token(tape: Callable[..., Any]) -> None:
    """It does not start on more than loopback without one, nor with a short one; the token is in no message."""
    for words in (("--host", "0.0.0.0"), ("--host", "::")):
        refused = tape(*words)
        assert refused.returncode == 2
        assert "needs a token" in refused.stderr
    short = tape("--host", "0.0.0.0", TAPE_DASHBOARD_TOKEN="short-secret")
    assert short.returncode == 2
    assert "fewer than 16" in short.stderr
    assert "short-secret" not in short.stderr


def test_what_cannot_be_served_is_one_line(tape: Callable[..., Any], tmp_path: Path) -> None:
    """A port in use, a file that is not there, a strange prefix, a missing folder, and a missing extra."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        for words, said in (
            (("--port", port), "choose another"),
            (("--token-file", "none"), "cannot be read"),
            (("--root-path", "/a b"), "is not a path"),
            (("--data-dir", "none"), "no such data folder"),
        ):
            done = tape(*words)
            assert done.returncode in (1, 2)
            assert said in done.stderr
            assert len(done.stderr.splitlines()) == 1
    missing = "import sys; sys.modules['nicegui'] = None; from tape.start import main; main()"
    done = tape(program=missing)
    assert done.returncode == 1
    assert "stock-tracing[dashboard]" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_it_listens_on_loopback_alone(dashboard: Callable[..., str], store: Store) -> None:
    """No other address of this machine answers on its port, and nothing else of it listens."""
    port = urlsplit(dashboard(store.root)).port
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    mine = [line[1] for line in listening if line[3] == "0A" and int(line[1].split(":")[1], 16) == port]
    assert mine == [f"0100007F:{port:04X}"]
    six = [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    assert not [line for line in six if line[3] == "0A" and int(line[1].split(":")[1], 16) == port]


def test_the_token_may_be_in_a_file_and_leaves_no_trace(
    dashboard: Callable[..., str], store: Store, tmp_path: Path
) -> None:
    """A file or a setting; it is in no process list, and a name that was allowed is served, its origin too."""
    token = f"of-this-test-alone-{tmp_path.name}"
    (tmp_path / "token").write_text(f"{token}\n")
    url = dashboard(store.root, "--token-file", str(tmp_path / "token"), "--allow-host", "tape.example.com")
    bearer = {"Authorization": f"Bearer {token}"}
    assert ask(url, "/", **bearer)[0] == 200
    assert ask(url, "/", Host="tape.example.com", Origin="https://tape.example.com", **bearer)[0] == 200
    assert ask(url, "/", Host="other.example.com", **bearer)[0] == 403
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert not [command for command in commands if token.encode() in command]


def test_the_page_starts_without_prefect(tmp_path: Path, store: Store) -> None:
    """Neither the server nor the pages, the archive's included, import Prefect."""
    program = (
        "import sys; sys.modules['prefect'] = None\n"
        "import tape.dashboard.offers, tape.dashboard.archive, tape.cli.app\n"
        "print(__import__('json').dumps(sorted(name for name in sys.modules if name.startswith('prefect.'))))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
