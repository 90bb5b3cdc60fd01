"""What a feed sent before it went away is recorded, although nothing can be sent to it anymore."""

import threading
from dataclasses import dataclass

import pytest
from faults import PING, Connection, Frame, Send, Signal, StartServer, Subscribed
from recording import Answered, StartSession, assert_all_there, trades, wait_for

from tasks.capture.supervise import change_symbols
from tasks.storage.store import Store


@dataclass(frozen=True, slots=True)
class Leave:
    """A step: close the socket both ways. Whatever the client sends from now on is answered with a RST."""

    def run(self, connection: Connection) -> None:
        connection.end()


@dataclass(frozen=True, slots=True)
class Burst:
    """A step: 60 messages in one write that fits into TCP's first window and is more than one read."""

    pings: bool

    def run(self, connection: Connection) -> None:
        messages = [Send(trades(14, 14 * number)) for number in range(1, 61)]
        between = bytes(Frame(PING, b"still there?" * 2)) if self.pings else b""
        content = b"".join(each.content() + between for each in messages)
        assert 40 << 10 < len(content) < 60 << 10
        connection.send([trade for each in messages for trade in each.trades], content, len(content), None, 0.0)


@pytest.mark.parametrize("then", ["answers", "asks", "leaves"])
def test_what_was_sent_before_the_feed_went_away_is_read_to_its_end(
    store: Store, fault_server: StartServer, session: StartSession, disk_goes: threading.Event, then: str
) -> None:
    """Trades wait in the kernel, the feed is gone, and pongs, subscriptions, or unsubscriptions fail: each is a row."""
    gone = threading.Event()
    server = fault_server(
        # The disk holds the first message, so that the queue holds up what is read next: a part of the burst. The rest
        # is in the kernel when the first of our sends fails: of pongs, subscriptions or unsubscriptions.
        [Subscribed("A", "B"), Send(trades(14)), Answered(), Burst(then == "answers"), Leave(), Signal(gone)],
        [Subscribed("A", "B")],
    )
    recording = session(server.url, ("A", "B"), queue_bytes=2_000)
    assert gone.wait(10)
    listener = recording.session._listener
    if then == "leaves":
        recording.session.stop()
        wait_for(listener._stopping.is_set)
    elif then == "asks":
        change_symbols(recording.request.folder, lambda now: (*now, *"CDEF"))
        wait_for(lambda: not listener._orders.empty())
    disk_goes.set()
    if then != "leaves":
        server.connection(1).wait_heard("subscribe")
    record = recording.end()
    rows = assert_all_there(store, record, server)
    assert len(rows) == 14 + 840
    assert record.listening_ns is not None
    if then == "leaves":
        assert record.gaps == ()
    else:  # It may begin before the last rows: we read them late, and more may have been on its way.
        (gap,) = record.gaps
        assert record.listening_ns <= gap.start_ns <= (gap.end_ns or 0)
