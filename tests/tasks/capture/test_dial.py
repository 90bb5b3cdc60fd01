"""A host's dead addresses cost moments, and an abandoned attempt leaves no thread and no socket."""

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from addresses import black_hole, refusing, resolving, silent
from faults import Accept, Answer, Connection, FaultServer, StartServer, Subscribed
from recording import AT_ONCE, StartSession, wait_for

from tasks.capture.dial import Dialer, interleaved
from tasks.capture.feed import connect
from tasks.errors import TransientError

# An address of documentation (RFC 5737), to which no machine has a way on loopback; the name is never looked up.
URL = "ws://feed.invalid"
SIX, FOUR = socket.AF_INET6, socket.AF_INET


@pytest.fixture
def server(fault_server: StartServer) -> FaultServer:
    """A feed that accepts every connection."""
    return fault_server(then=[Accept()])


def place_of(server: FaultServer) -> tuple[str, int]:
    return ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))


def test_families_take_turns_and_each_place_comes_once() -> None:
    """Families alternate, starting with that of the first place, and the order within each is kept."""
    assert interleaved([(SIX, 1), (SIX, 2), (SIX, 1), (SIX, 3), (FOUR, 4), (FOUR, 5)]) == [
        (SIX, 1), (FOUR, 4), (SIX, 2), (FOUR, 5), (SIX, 3),
    ]  # fmt: skip
    assert interleaved([]) == []


def test_a_black_hole_before_the_right_address_costs_a_quarter_of_a_second(server: FaultServer) -> None:
    """An address that does not answer gets a head start, not all the time: the next one connects meanwhile."""
    with black_hole() as dead:
        began_s = time.monotonic()
        connection = connect(URL, 10.0, dialer=Dialer(resolving(dead, place_of(server))))
        assert 0.2 < time.monotonic() - began_s < 3.0
        connection.close()


def test_a_refusal_lets_the_next_address_begin_at_once(server: FaultServer) -> None:
    """Four addresses that refuse, as with broken IPv6, are passed without waiting for their head starts."""
    with refusing() as dead:
        six = ("::1", dead[1])
        began_s = time.monotonic()
        connection = connect(URL, 10.0, dialer=Dialer(resolving(six, dead, ("127.0.0.5", dead[1]), place_of(server))))
        assert time.monotonic() - began_s < 0.24
        connection.close()


def test_short_of_time_each_address_still_gets_its_share(server: FaultServer) -> None:
    """With two black holes and a tenth of the usual time, the third address is still tried."""
    with black_hole() as dead, black_hole() as also_dead:
        dialer = Dialer(resolving(dead, also_dead, place_of(server)))
        connect(URL, 0.4, dialer=dialer).close()


def test_addresses_that_all_refuse_are_told_by_their_reasons(server: FaultServer) -> None:
    """The error has each address's reason once, and no address."""
    with refusing() as dead:
        places = [dead, dead, ("255.255.255.255", dead[1])]
        with pytest.raises(TransientError) as failed:
            connect(URL, 10.0, dialer=Dialer(resolving(*places)))
    assert str(failed.value) in (
        "no connection: connection refused, network is unreachable",
        "no connection: connection refused, permission denied",
    )
    with pytest.raises(TransientError, match="no connection: it has no address"):
        connect(URL, 10.0, dialer=Dialer(resolving()))


def test_the_next_try_begins_with_another_address(server: FaultServer) -> None:
    """An address that connects and then stays silent is tried once; the next calls use the other one."""
    with silent() as mute:
        dialer = Dialer(resolving(mute, place_of(server)))
        with pytest.raises(TransientError, match="it took too long"):
            connect(URL, 0.3, dialer=dialer)
        for _ in range(2):
            connect(URL, 5.0, dialer=dialer).close()
    assert len(server.connections) == 2


def test_a_session_does_not_stay_with_an_address_that_says_nothing(
    server: FaultServer, session: StartSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feed's host has a silent address first: the session's second attempt uses the other one."""
    real = socket.getaddrinfo
    with silent() as mute:
        places = resolving(mute, place_of(server))

        def resolve(host: str, *arguments: Any, **options: Any) -> Any:
            return places(host, 0) if host == "feed.invalid" else real(host, *arguments, **options)

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        recording = session(URL, connect_timeout_s=0.4, backoff=AT_ONCE)
        recording.when(lambda status: status.state == "recording")
        assert [gap.reason for gap in recording.end().gaps] == ["no connection: it took too long"]


def test_a_look_up_that_hangs_is_waited_for_by_the_next_try(server: FaultServer) -> None:
    """A lookup that hangs costs one thread for all attempts, and its result is used."""
    answers, asked = threading.Event(), list[str]()

    def resolve(host: str, _port: int, **_options: object) -> list[Any]:
        asked.append(host)
        answers.wait(20)
        return resolving(place_of(server))(host, 0)

    dialer = Dialer(resolve)
    for _ in range(3):
        with pytest.raises(TransientError, match="it took too long"):
            connect(URL, 0.1, dialer=dialer)
    assert asked == ["feed.invalid"]
    answers.set()
    connect(URL, 5.0, dialer=dialer).close()
    connect(URL, 5.0, dialer=dialer).close()
    # The one that hung answers this try, or had just ended: then this one asks anew.
    assert len(asked) in (2, 3)


class Trickle:
    """A step before the handshake's answer: a byte of a header now and then, until the client is gone."""

    def run(self, connection: Connection) -> None:
        connection.read_request()
        while True:
            connection.write(b"x")
            time.sleep(0.01)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_handshakes_that_trickle_leave_no_thread_and_no_descriptor(fault_server: StartServer) -> None:
    """Fifty attempts whose peer sends a byte now and then are all abandoned, and nothing of them is left."""
    before = threading.active_count(), open_descriptors()
    server = fault_server(then=[Trickle(), Answer(503)])
    dialer = Dialer()
    tries = 0
    while len(server.connections) < 50:  # A try may be over before its connection is there: it counts for nothing.
        tries += 1
        assert tries <= 100
        with pytest.raises(TransientError, match="it took too long"):
            connect(server.url, 0.05, dialer=dialer)
        assert sum(thread.name == "connect" for thread in threading.enumerate()) <= 3
    server.stop()
    wait_for(lambda: (threading.active_count(), open_descriptors()) <= before, 5)


def test_a_try_that_is_given_up_closes_its_connection_at_once(fault_server: StartServer) -> None:
    """When stopped, an attempt that may take a minute ends within moments, and its peer sees the connection end."""
    server = fault_server([Trickle(), Answer(503)])
    given_up = threading.Event()
    threading.Timer(0.1, given_up.set).start()
    began_s = time.monotonic()
    with pytest.raises(TransientError):
        connect(server.url, 60.0, given_up)
    assert time.monotonic() - began_s < 5
    assert server.connection(0).gone.wait(5)


def test_the_receive_buffer_is_large(fault_server: StartServer) -> None:
    """The kernel buffers seconds of a burst while reading is blocked: more than a socket's default."""
    server = fault_server(then=[Subscribed()])
    connection = connect(server.url, 5.0)
    size = connection._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    connection.close()
    with socket.create_connection(place_of(server)) as plain:
        assert size > plain.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
