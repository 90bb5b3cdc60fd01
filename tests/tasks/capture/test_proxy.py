"""The feed is reached through the proxy in the environment, loopback without one; `doctor` uses the same path."""

import os
import socket
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from addresses import refusing, silent
from certificates import ELSEWHERE, tls_of
from connect_proxy import proxying
from faults import Accept, FaultServer, Send, StartServer, Subscribed
from recording import Answered, StartSession, assert_all_there, trades

from tasks.capture.feed import connect, reach
from tasks.errors import TransientError
from tasks.storage.store import Store

SECRET = "a-proxy-password"
PLAIN = f"ws://{ELSEWHERE}"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clear the proxy variables of the developer's machine."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port on which no proxy listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def place_of(server: FaultServer) -> tuple[str, int]:
    return ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "Http_Proxy", "all_proxy", "ALL_PROXY"])
def test_loopback_goes_by_no_proxy(
    fault_server: StartServer, monkeypatch: pytest.MonkeyPatch, dead_port: int, variable: str
) -> None:
    """With an unreachable proxy and no exemptions, a feed on this machine is reached anyway."""
    monkeypatch.setenv(variable, f"http://127.0.0.1:{dead_port}")
    server = fault_server(then=[Accept()])
    connect(server.url, 5.0).close()
    connect(server.url.replace("127.0.0.1", "localhost"), 5.0).close()


def test_loopback_goes_by_no_proxy_over_tls(
    fault_server: StartServer, monkeypatch: pytest.MonkeyPatch, dead_port: int, certificates: dict[str, Path]
) -> None:
    """The same over TLS, whatever https_proxy says, even nonsense."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["ca"]))
    server = fault_server(then=[Accept()], tls=tls_of(certificates))
    for value in (f"http://127.0.0.1:{dead_port}", "socks5://nowhere.invalid:1", "nonsense://"):
        monkeypatch.setenv("https_proxy", value)
        connect(server.url, 5.0).close()


def test_a_session_records_by_a_proxy(
    store: Store, fault_server: StartServer, session: StartSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A remote feed is reached by CONNECT, with the proxy's own user and password; everything it sends is recorded."""
    server = fault_server([Subscribed("A"), Send(trades(500)), Answered()])
    with proxying(place_of(server)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://user:{SECRET}@127.0.0.1:{proxy.port}")
        recording = session(PLAIN)
        server.connection(0).wait_heard("pong")
        record = recording.end()
    assert len(assert_all_there(store, record, server)) == 500
    credentials = b64encode(f"user:{SECRET}".encode()).decode()
    assert proxy.asked == [
        [f"CONNECT {ELSEWHERE}:80 HTTP/1.1", f"Host: {ELSEWHERE}:80", f"Proxy-Authorization: Basic {credentials}"]
    ]


def test_tls_goes_through_the_proxy_to_the_feed(
    fault_server: StartServer, monkeypatch: pytest.MonkeyPatch, certificates: dict[str, Path]
) -> None:
    """Through a proxy the feed's own certificate is checked for the requested name; the proxy sees no key."""
    server = fault_server(then=[Accept()], tls=tls_of(certificates))
    with proxying(place_of(server)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{proxy.port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates["ca"]))
        connect(f"wss://{ELSEWHERE}/?token=the-key", 5.0).close()
        assert proxy.asked == [[f"CONNECT {ELSEWHERE}:443 HTTP/1.1", f"Host: {ELSEWHERE}:443"]]
        assert server.connections[0].path == "/?token=the-key"
        for name, authority in (("another.invalid", "ca"), (ELSEWHERE, "other_ca")):
            monkeypatch.setenv("SSL_CERT_FILE", str(certificates[authority]))
            with pytest.raises(TransientError, match="the TLS certificate was not accepted"):
                connect(f"wss://{name}", 5.0)


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "the proxy of http_proxy refused it (HTTP 407)"),
        (b"HTTP/1.0 502 Bad Gateway\r\nX: y\r\n\r\nno", "the proxy of http_proxy refused it (HTTP 502)"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "the proxy of http_proxy refused it"),
        (b"\x15\x03\x01\x00\x02\x02\x16", "the proxy of http_proxy ended the connection"),
        (b"x" * (1 << 20), "the proxy of http_proxy refused it"),
    ],
)
def test_a_proxy_that_refuses_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, refusal: bytes, reason: str
) -> None:
    """A proxy's answer is reported with the variable that names it, and without its address or password."""
    with proxying(("127.0.0.1", 1), refusal) as proxy:
        monkeypatch.setenv("http_proxy", f"http://user:{SECRET}@127.0.0.1:{proxy.port}")
        with pytest.raises(TransientError) as refused:
            connect(PLAIN, 5.0)
    assert str(refused.value) == f"no connection: {reason}"


def test_a_proxy_that_is_not_there_or_says_nothing_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that refuses or is mute is an outage like the feed's own: reported, and bounded in time."""
    with refusing() as (ip, port):
        monkeypatch.setenv("http_proxy", f"http://{ip}:{port}")
        with pytest.raises(TransientError, match="no connection: the proxy of http_proxy cannot be reached"):
            connect(PLAIN, 5.0)
    with silent() as (ip, port):
        monkeypatch.setenv("http_proxy", f"http://{ip}:{port}")
        with pytest.raises(TransientError, match="no connection: it took too long"):
            connect(PLAIN, 0.2)


def test_a_proxy_of_a_kind_that_is_not_spoken_ends_the_session_at_once(
    session: StartSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the variable is wrong, retrying is no use: the session fails, and its error names the variable."""
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    record = session(PLAIN).record()
    assert record.outcome == "failed"
    assert (record.error or "").startswith("all_proxy: names a proxy of another kind than http://")


def test_doctor_reaches_the_feed_by_the_same_way_without_a_handshake(
    fault_server: StartServer, monkeypatch: pytest.MonkeyPatch, certificates: dict[str, Path]
) -> None:
    """Name, proxy, and certificate are tried as for a recording, but no websocket is opened: a key has only one."""
    server = fault_server(then=[Accept()], tls=tls_of(certificates))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["ca"]))
    assert reach(server.url, 5.0) == server.url.removeprefix("wss://")
    with proxying(place_of(server)) as proxy:
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{proxy.port}")
        assert reach(f"wss://{ELSEWHERE}", 5.0) == f"{ELSEWHERE}:443, by the proxy of https_proxy,"
    assert [connection.path for connection in server.connections] == ["", ""]
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates["other_ca"]))
    with pytest.raises(TransientError, match="the TLS certificate was not accepted"):
        reach(server.url, 5.0)
