"""What a feed had sent before it went away is recorded, though nothing can be sent to it any more."""

import threading
from dataclasses import dataclass

import pytest
from faults import PING, Connection, Frame, Send, Signal, StartServer, Subscribed
from recording import StartSession, assert_all_there, trades, wait_for

from tasks.storage.store import Store


@dataclass(frozen=True, slots=True)
class Leave:
    """A step: close the socket both ways. Whatever the client sends from now on is answered with a RST."""

    def run(self, connection: Connection) -> None:
        connection.end()


@dataclass(frozen=True, slots=True)
class Burst:
    """A step: 60 messages, each with a ping after it, in one write that fits into TCP's first window."""

    def run(self, connection: Connection) -> None:
        messages = [Send(trades(14, 14 * number)) for number in range(60)]
        content = b"".join(each.content() + bytes(Frame(PING, b"still there?")) for each in messages)
        assert 48 << 10 < len(content) < 60 << 10
        connection.send([trade for each in messages for trade in each.trades], content, len(content), None, 0.0)


@pytest.mark.parametrize("stopped", [False, True], ids=["lost", "stopped"])
def test_what_was_sent_before_the_feed_went_away_is_read_to_its_end(
    store: Store, fault_server: StartServer, session: StartSession, disk_goes: threading.Event, stopped: bool
) -> None:
    """Trades and pings wait in the kernel, the feed is gone, no pong, no unsubscription gets out: each is a row."""
    gone = threading.Event()
    server = fault_server(
        # The queue is full with the first read: the pings of what is read after it are seen once the feed is gone.
        [Subscribed("A", "B"), Burst(), Leave(), Signal(gone)],
        [Subscribed("A", "B")],
    )
    recording = session(server.url, ("A", "B"), queue_bytes=1_000)
    assert gone.wait(10)
    if stopped:
        recording.session.stop()
        wait_for(recording.session._listener._stopping.is_set)
    disk_goes.set()
    if not stopped:
        server.connection(1).wait_heard("subscribe")
    record = recording.end()
    rows = assert_all_there(store, record, server)
    assert len(rows) == 840
    if stopped:
        assert record.gaps == ()
    else:
        (gap,) = record.gaps
        assert gap.end_ns is not None
        assert gap.start_ns <= gap.end_ns
