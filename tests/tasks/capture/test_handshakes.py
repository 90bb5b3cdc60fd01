"""Until there is a connection, every refusal is retried as its kind requires, and the time is one gap."""

import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

import pytest
from faults import (
    Accept,
    Answer,
    Close,
    Connection,
    Reset,
    Send,
    Stall,
    StartServer,
    Step,
    Subscribed,
)
from recording import (
    RESET,
    Answered,
    StartSession,
    assert_all_there,
    assert_gaps_between,
    trades,
    wait_for,
)

from tasks.capture.listener import Backoff
from tasks.storage.store import Store


@dataclass(frozen=True, slots=True)
class Drip:
    """A step before the handshake's answer: an endless header, byte by byte."""

    def run(self, connection: Connection) -> None:
        connection.read_request()
        for byte in b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * 1000:
            connection.write(bytes([byte]))
            time.sleep(0.02)


def test_refused_handshakes_are_tried_again_with_growing_waits(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """Any answer but a valid 101 is one gap until the feed is there, with full-jitter waits."""
    statuses = (200, 204, 302, 400, 404, 500, 502, 503, 504, 520, 524)
    most_s: list[float] = []
    elsewhere = b"Location: ws://127.0.0.1:1/\r\n"
    server = fault_server(
        *[[Answer(status, extra=elsewhere)] for status in statuses],
        [Accept(wrong_key=True)],
        [Accept(), Subscribed("A"), Send(trades(3)), Answered()],
    )
    backoff = Backoff(0.5, 30.0, uniform=lambda least_s, at_most_s: (most_s.append(at_most_s), least_s)[1])
    recording = session(server.url, backoff=backoff)
    server.connection(len(statuses) + 1).wait_heard("pong")
    record = recording.end()
    assert_all_there(store, record, server)
    (gap,) = record.gaps
    assert (gap.start_ns, gap.end_ns) == (record.started_ns, record.listening_ns)
    assert gap.reason == "the feed answered the handshake with HTTP 200"
    assert most_s[:12] == [1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30, 30]
    assert record.connections == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_ends_the_session_at_once(
    store: Store, fault_server: StartServer, session: StartSession, status: int
) -> None:
    """If the key is refused, the session fails at once and says what to do."""
    server = fault_server([Answer(status)])
    record = session(server.url).record()
    assert record.outcome == "failed"
    assert record.error == f"the feed refused the API key (HTTP {status}); correct TAPE_REPLAY_KEY"
    (gap,) = record.gaps
    assert (gap.start_ns, gap.end_ns, gap.reason) == (record.started_ns, record.deadline_ns, record.error)
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([Answer(429)], "the feed counts another connection on this API key (HTTP 429)"),
        ([Subscribed("A"), Close(1008)], "the feed closed the connection with code 1008"),
    ],
)
def test_a_second_connection_on_the_key_waits_for_minutes_and_says_so(
    fault_server: StartServer, session: StartSession, script: list[Step], reason: str
) -> None:
    """At 429 and its close code the next attempt is at least a minute away; a stop still ends the session at once."""
    server = fault_server(script)
    recording = session(server.url, backoff=Backoff(30.0, uniform=lambda _least_s, most_s: most_s / 4))
    notice = recording.when(lambda status: status.state == "reconnecting" and status.notice)
    assert notice == f"{reason}; next try in 67.5 s"
    started_s = time.monotonic()
    record = recording.end()
    assert time.monotonic() - started_s < 2
    assert [gap.reason for gap in record.gaps] == [reason]
    assert len(server.connections) == 1


def test_slow_handshakes_are_given_up_and_tried_again(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """A handshake that is not answered in time, or only byte by byte, is abandoned as a whole."""
    over = threading.Event()
    server = fault_server([Stall(over), Accept()], [Drip(), Accept()], [Accept(wrong_key=True)], [Subscribed("A")])
    recording = session(server.url, connect_timeout_s=0.2)
    server.connection(3).wait_heard("subscribe")
    over.set()
    record = recording.end()
    assert [gap.reason for gap in record.gaps] == ["no connection: it took too long"]
    assert record.gaps[0].end_ns == record.listening_ns


def test_a_session_that_ends_does_not_wait_for_a_handshake(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """A stop while the feed does not answer ends the session long before the connect timeout."""
    over = threading.Event()
    server = fault_server([Stall(over), Accept()])
    recording = session(server.url, connect_timeout_s=60.0)
    wait_for(lambda: server.connections)
    start_s = time.monotonic()
    record = recording.end()
    over.set()
    assert time.monotonic() - start_s < 10
    assert (record.outcome, record.listening_ns, record.gaps) == ("stopped", None, ())


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ws://nowhere.invalid", "no connection: the host's name was not found"),
        (f"ws://{'x' * 64}.invalid", "no connection: the host's name was not found"),
        ("ws://127.0.0.1:1", "no connection: connection refused"),
    ],
)
def test_no_host_is_a_gap_that_names_no_address(
    session: StartSession, monkeypatch: pytest.MonkeyPatch, url: str, reason: str
) -> None:
    """An unknown name and a refused port are retried; neither address nor key is in the reason."""
    real = socket.getaddrinfo

    def resolve(host: str, *arguments: Any, **options: Any) -> Any:
        # A resolver without a network takes its time; this one answers at once.
        if host == "nowhere.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    recording = session(url)
    recording.when(lambda status: status.open_gaps)
    record = recording.end()
    (gap,) = record.gaps
    assert gap.reason == reason
    assert (gap.start_ns, gap.end_ns) == (record.started_ns, record.ended_ns)


def test_a_refused_port_is_a_gap_until_it_listens(
    store: Store, fault_server: StartServer, session: StartSession
) -> None:
    """The feed restarts: the connection is reset, the port refuses, then listens again; that is one gap."""
    go, refused = threading.Event(), threading.Event()
    server = fault_server([Subscribed("A"), Send(trades(3)), Answered(), Stall(go), Reset()], [Subscribed("A")])
    recording = session(server.url, backoff=Backoff(0.02, uniform=lambda _least_s, most_s: most_s))
    server.connection(0).wait_heard("pong")
    server.refuse()
    go.set()
    recording.when(lambda status: "refused" in (status.notice or ""))
    refused.set()
    server.listen()
    server.connection(1).wait_heard("subscribe")
    record = recording.end()
    assert_gaps_between(assert_all_there(store, record, server), record, [RESET])
