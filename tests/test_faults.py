import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import faults
import pytest
import websocket
from faults import (
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    Accept,
    Answer,
    Close,
    Drop,
    FaultServer,
    Frame,
    Heard,
    Mute,
    Raw,
    Reset,
    Send,
    Signal,
    Stall,
    StartServer,
    Subscribed,
    Text,
)

from tasks.records.trade import Trade

WAIT_S = 10
TRADES = [Trade(10**18 + n * 10**6, "AAPL", f"{n}.10", "1", ("1",)) for n in range(1, 4)]
MESSAGE = Send(TRADES).frames()[0].payload


def join(server: FaultServer, **options: object) -> websocket.WebSocket:
    return websocket.create_connection(f"{server.url}/?token=t", timeout=WAIT_S, **options)


def subscribe(client: websocket.WebSocket, symbol: str = "AAPL") -> None:
    client.send(f'{{"type":"subscribe","symbol":"{symbol}"}}')


def rest(client: websocket.WebSocket) -> bytes:
    """What comes on the socket until the end of the stream."""
    return b"".join(iter(lambda: client.sock.recv(1 << 16), b""))


def test_what_the_client_says_is_recorded_in_order(fault_server: StartServer) -> None:
    """Requests, pings and the close are heard; a ping is answered, a close too, and the path holds the token."""
    server = fault_server([])
    client = join(server)
    subscribe(client, "A")
    subscribe(client, "B")
    client.send('{"type":"unsubscribe","symbol":"A"}')
    client.send("hello")
    client.ping(b"1")
    assert client.recv_data(control_frame=True) == (websocket.ABNF.OPCODE_PONG, b"1")
    client.close(1000, timeout=WAIT_S)
    connection = server.connection(0)
    connection.wait_heard("close")
    assert connection.path == "/?token=t"
    assert connection.subscribed == {"B"}
    assert connection.heard == [
        Heard("subscribe", "A"), Heard("subscribe", "B"), Heard("unsubscribe", "A"), Heard("text", b"hello"),
        Heard("ping", b"1"), Heard("close", b"\x03\xe8"),
    ]  # fmt: skip


@pytest.mark.parametrize("status", [200, 401, 403, 429, 503, 524])
def test_the_handshake_may_be_answered_otherwise(fault_server: StartServer, status: int) -> None:
    """Any HTTP status at the handshake; the next connection plays the next script, a further one `then`."""
    server = fault_server([Answer(status)], [Text("hello")])
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        join(server)
    assert caught.value.status_code == status
    assert join(server).recv() == "hello"
    with pytest.raises(websocket.WebSocketBadStatusException, match="503"):
        join(server)


def test_a_handshake_may_be_wrong_or_late(fault_server: StartServer) -> None:
    """A wrong key is answered, or nothing at all until the test says so."""
    answer = threading.Event()
    server = fault_server([Accept(wrong_key=True)], [Stall(answer), Accept(), Text("late")])
    with pytest.raises(websocket.WebSocketException):
        join(server)
    raw = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))
    raw.sendall(b"GET / HTTP/1.1\r\nSec-WebSocket-Key: k\r\n\r\n")
    raw.settimeout(0.2)
    with pytest.raises(TimeoutError):
        raw.recv(1)
    answer.set()
    raw.settimeout(WAIT_S)
    assert raw.recv(1 << 12).startswith(b"HTTP/1.1 101")


def test_a_message_is_sent_once_its_symbol_is_subscribed(fault_server: StartServer) -> None:
    """The script waits for the subscription, a repeated step is a duplicate message, and both count as sent."""
    server = fault_server([Subscribed("AAPL"), Send(TRADES), Send(TRADES)])
    client = join(server)
    subscribe(client)
    assert client.recv().encode() == client.recv().encode() == MESSAGE
    assert server.sent == TRADES * 2
    assert server.cut == []


@pytest.mark.parametrize("slowly", [None, 1])
def test_fragments_with_control_frames_between_are_one_message(fault_server: StartServer, slowly: int | None) -> None:
    """A message in many frames, with a ping between, byte by byte or not, reads as one."""
    ping = Frame(PING, b"between")
    server = fault_server([Send(TRADES, fragments=7, between=[ping], slowly=slowly)])
    frames = Send(TRADES, fragments=7, between=[ping]).frames()
    assert [frame.opcode for frame in frames] == [TEXT, PING, *[CONTINUATION] * 6]
    client = join(server)
    assert client.recv().encode() == MESSAGE
    server.connection(0).wait_heard("pong", b"between")


@pytest.mark.parametrize("end", [Drop(), Reset()])
def test_a_message_is_cut_after_any_byte(fault_server: StartServer, end: faults.Step) -> None:
    """Exactly that many bytes arrive; the trades count as cut until the last byte is out."""
    whole = Send(TRADES).content()
    cuts = {n: threading.Event() for n in (0, 1, 2, 3, 4, 5, len(whole) // 2, len(whole) - 1, len(whole))}
    server = fault_server(*([Send(TRADES, cut_after=n), Stall(read), end] for n, read in cuts.items()))
    for n, read in cuts.items():
        client = join(server)
        arrived = b"".join(client.sock.recv(1) for _ in range(n))
        read.set()
        if isinstance(end, Reset):
            with pytest.raises(ConnectionResetError):
                client.sock.recv(1)
        else:
            assert client.sock.recv(1) == b""
        assert arrived == whole[:n]
        connection = server.connections[-1]
        assert (connection.sent, connection.cut) == ((TRADES, []) if n == len(whole) else ([], TRADES))


def test_a_close_frame_has_any_code(fault_server: StartServer) -> None:
    """The client sees the code and the reason, and its answer is heard."""
    server = fault_server([Close(1012, "restart")])
    client = join(server)
    assert client.recv_data() == (websocket.ABNF.OPCODE_CLOSE, b"\x03\xf4restart")
    server.connection(0).wait_heard("close")


@pytest.mark.parametrize(
    ("frame", "wire"),
    [
        (Frame(TEXT, b"ab"), b"\x81\x02ab"),
        (Frame(TEXT, b"ab", fin=False), b"\x01\x02ab"),
        (Frame(TEXT, b"ab", rsv=4), b"\xc1\x02ab"),
        (Frame(TEXT, b"ab", masked=True), b"\x81\x82\0\0\0\0ab"),
        (Frame(TEXT, b"ab", length=9), b"\x81\x09ab"),
        (Frame(TEXT, b"ab", length_bytes=2), b"\x81\x7e\0\x02ab"),
        (Frame(TEXT, b"ab", length_bytes=8), b"\x81\x7f\0\0\0\0\0\0\0\x02ab"),
        (Frame(TEXT, b"", length=1 << 63), b"\x81\x7f\x80\0\0\0\0\0\0\0"),
        (Frame(TEXT, b"x" * 126), b"\x81\x7e\0\x7e" + b"x" * 126),
        (Frame(TEXT, b"x" * 65536), b"\x81\x7f\0\0\0\0\0\x01\0\0" + b"x" * 65536),
        (Frame(3, b""), b"\x83\x00"),
        (Frame(CLOSE, b"\x03"), b"\x88\x01\x03"),
    ],
)
def test_frames_and_garbage_go_out_as_they_are(fault_server: StartServer, frame: Frame, wire: bytes) -> None:
    """Reserved bits, masks, lying and overlong lengths, unknown opcodes: the bytes are those of the script."""
    server = fault_server([Raw(bytes(frame)), Raw(b"\x00garbage"), Drop()])
    assert rest(join(server)) == wire + b"\x00garbage"


def test_a_stalled_connection_answers_pings_and_a_mute_one_does_not(fault_server: StartServer) -> None:
    """Half-open is silence in both directions until the test ends it; a stall keeps answering."""
    stalled, mute, muted, go_on = (threading.Event() for _ in range(4))
    server = fault_server([Stall(stalled), Signal(muted), Mute(mute), Stall(go_on), Text("back")])
    client = join(server)
    client.ping(b"1")
    assert client.recv_data(control_frame=True)[1] == b"1"
    stalled.set()
    assert muted.wait(WAIT_S)
    connection = server.connection(0)
    while connection.hearing.is_set():  # the next step's first act
        pass
    client.ping(b"2")
    client.settimeout(0.3)
    with pytest.raises(websocket.WebSocketTimeoutException):
        client.recv_data(control_frame=True)
    assert Heard("ping", b"2") not in connection.heard
    mute.set()
    client.settimeout(WAIT_S)
    assert client.recv_data(control_frame=True)[1] == b"2"
    go_on.set()
    assert client.recv() == "back"


def test_no_pong_falls_into_a_message(fault_server: StartServer) -> None:
    """A ping that comes while a message goes out slowly is answered after it; after a cut one, never."""
    cut, was_cut = len(Send(TRADES).content()) - 5, threading.Event()
    slow = Send(TRADES, slowly=2, pause_s=0.002)
    server = fault_server([slow, Send(TRADES, cut_after=cut), Signal(was_cut), Stall(threading.Event())])
    client = join(server)
    client.ping(b"1")
    assert client.recv().encode() == MESSAGE
    assert was_cut.wait(WAIT_S)
    client.ping(b"2")
    server.connection(0).wait_heard("ping", b"2")
    client.sock.shutdown(socket.SHUT_WR)
    assert rest(client).removeprefix(b"\x8a\x011") == Send(TRADES).content()[:cut]


def test_connections_may_be_refused_for_a_while(fault_server: StartServer) -> None:
    """Nothing listens until it listens again, on the same port; the open connection goes on."""
    go_on = threading.Event()
    server = fault_server([Stall(go_on), Text("first")], [Text("second")])
    first = join(server)
    server.refuse()
    with pytest.raises(ConnectionRefusedError):
        join(server)
    server.listen()
    assert join(server).recv() == "second"
    go_on.set()
    assert first.recv() == "first"


def test_a_client_that_reads_no_more_makes_the_rest_cut(fault_server: StartServer) -> None:
    """What the server could not write because the client went away counts as cut, not as sent."""
    many = TRADES * 100_000
    server = fault_server([Send(many)])
    client = join(server)
    client.sock.recv(10)
    client.shutdown()
    assert server.connection(0).gone.wait(WAIT_S)
    assert (server.sent, len(server.cut)) == ([], len(many))


def test_a_script_that_waits_in_vain_fails_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscription that never comes is an error on leaving, which says what was heard instead."""
    monkeypatch.setattr(faults, "WITHIN_S", 0.2)
    with pytest.raises(TimeoutError, match=r"AAPL.*MSFT"), FaultServer([Subscribed("AAPL")]) as server:  # noqa: PT012
        client = join(server)
        subscribe(client, "MSFT")
        client.sock.recv(1)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_it_speaks_tls(fault_server: StartServer, tmp_path: Path) -> None:
    """The same scripts over TLS: messages, answers to pings at the same time, and a reset."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", certificate, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    heard = threading.Event()
    server = fault_server([Subscribed("AAPL"), Send(TRADES, slowly=7), Stall(heard), Reset()], tls=context)
    client = join(server, sslopt={"ca_certs": str(certificate)})
    subscribe(client)
    client.ping(b"1")
    got = [client.recv_data(control_frame=True) for _ in range(2)]
    assert {content for _, content in got} == {MESSAGE, b"1"}
    heard.set()
    with pytest.raises((ConnectionError, ssl.SSLError, websocket.WebSocketConnectionClosedException)):
        client.recv()
