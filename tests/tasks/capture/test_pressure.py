"""If the disk is slower than the feed, the feed has to wait; if it does not, that is a gap that says so."""

import errno
import os
import re
import threading
import time
from dataclasses import replace

import pytest
from faults import Close, Raw, Reset, Send, Signal, StartServer, Subscribed
from recording import (
    BROKE,
    Answered,
    StartSession,
    assert_all_there,
    assert_counts_agree,
    sealed_rows,
    trades,
)

from tasks.capture.listener import Backoff
from tasks.records.trade import NS_PER_S
from tasks.storage.store import Store


def test_back_pressure_holds_the_sender_and_loses_nothing(
    store: Store, fault_server: StartServer, session: StartSession, disk_goes: threading.Event
) -> None:
    """While the disk accepts nothing, the queue stays in bounds and the server cannot send; then all is there."""
    # Two kernel buffers and ours are smaller than this: 20 MB of trades with many digits.
    fat = [replace(trade, price=trade.price + "0" * 400) for trade in trades(40_000, 0, "AB")]
    messages = [Send(fat[at : at + 100]) for at in range(0, len(fat), 100)]
    server = fault_server([Subscribed("A", "B"), *messages, Answered()])
    recording = session(server.url, ("A", "B"), queue_bytes=100_000, ping_every_s=0.1)
    connection = server.connection(0)
    sent = -1
    while sent != (sent := len(connection._sent)) or sent == 0:  # until the server can send no more
        time.sleep(0.3)
    assert sent < len(fat)
    status = recording.status()
    assert 0 < status.queue_bytes <= 100_000 + (32 << 10)
    disk_goes.set()
    connection.wait_heard("pong")
    record = recording.end()
    assert_all_there(store, record, server)
    assert (record.connections, record.gaps) == (1, ())
    assert recording.status().blocked_s > 0.2


def test_a_feed_that_drops_us_for_slowness_is_a_gap_with_that_reason(
    store: Store, fault_server: StartServer, session: StartSession, disk_goes: threading.Event
) -> None:
    """The journal delays reading for a second and the feed closes: the gap's reason says both."""
    sends = [Send(trades(500, 500 * n)) for n in range(20)]
    server = fault_server([Subscribed("A"), *sends, Close(1008, "too slow")])
    recording = session(server.url, queue_bytes=10_000, backoff=Backoff(0.0))
    recording.when(lambda status: status.queue_bytes > 10_000)  # What is read next waits from here on.
    threading.Timer(1.6, disk_goes.set).start()
    recording.when(lambda status: status.open_gaps)
    record = recording.end()
    assert_all_there(store, record, server)
    (gap,) = record.gaps
    assert re.fullmatch(
        r"the feed closed the connection with code 1008; "
        r"for [1-9]\d*\.\d s before, the journal had held up the reading",
        gap.reason,
    )


def test_what_is_lost_behind_a_held_up_reading_lies_in_the_gap(
    store: Store, fault_server: StartServer, session: StartSession, disk_goes: threading.Event
) -> None:
    """While we do not read, the feed drops old data and resets: the gap begins before what was dropped."""
    fat = [replace(trade, price=trade.price + "0" * 400) for trade in trades(40_000)]
    server = fault_server(
        [Subscribed("A"), *(Send(fat[at : at + 100]) for at in range(0, len(fat), 100))], [Subscribed("A")]
    )
    recording = session(server.url, queue_bytes=100_000)
    connection = server.connection(0)
    written = -1
    while written != (written := len(connection.written)) or not written:  # until the server can send no more
        time.sleep(0.3)
    reset_ns = time.time_ns()
    connection.reset()
    disk_goes.set()
    server.connection(1).wait_heard("subscribe")
    record = recording.end()
    rows = sealed_rows(store, record.session)
    assert [row.trade for row in rows] == fat[: len(rows)]
    assert_counts_agree(store, record)
    lost = [each for each in connection.written if each.trades[-1] not in [row.trade for row in rows[-100:]]]
    lost = [each for each in lost if each.trades[0].ts_event_ns > rows[-1].trade.ts_event_ns]
    assert lost
    (gap,) = record.gaps
    assert lost[0].began_ns < reset_ns - NS_PER_S // 4
    assert gap.start_ns <= lost[0].began_ns
    assert gap.end_ns is not None
    assert gap.end_ns >= reset_ns


def test_a_violation_stays_the_reason_where_the_feed_is_gone_before_we_read_it(
    store: Store, fault_server: StartServer, session: StartSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trades, garbage, and a reset wait in the kernel: our failed answer to the garbage is not the reason."""
    goes, reset, real = threading.Event(), threading.Event(), os.write

    def write(descriptor: int, content: bytes) -> int:
        if threading.current_thread().name.startswith("lane-"):
            goes.wait(20)
        return real(descriptor, content)

    monkeypatch.setattr(os, "write", write)
    sends = [Send(trades(100, 100 * n)) for n in range(20)]
    server = fault_server(
        [Subscribed("A"), *sends, Raw(b"\x81\xf0 garbage"), Reset(), Signal(reset)], [Subscribed("A")]
    )
    recording = session(server.url, queue_bytes=1_000)
    assert reset.wait(10)
    goes.set()
    server.connection(1).wait_heard("subscribe")
    record = recording.end()
    assert_all_there(store, record, server)
    assert [gap.reason for gap in record.gaps] == [BROKE + "a masked frame from the server"]


@pytest.mark.parametrize("lanes", [1, 2])
def test_where_writing_is_slow_and_then_fails_the_gap_begins_with_what_was_still_on_its_way(
    store: Store, fault_server: StartServer, session: StartSession, monkeypatch: pytest.MonkeyPatch, lanes: int
) -> None:
    """The feed is a second ahead of the journal when the disk fails: what was sent in that second is in the gap."""
    real, until_s = os.write, list[float]()

    def write(descriptor: int, content: bytes) -> int:
        if threading.current_thread().name.startswith("lane-"):
            until_s.append(time.monotonic() + 1.0)
            if time.monotonic() > until_s[0]:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            time.sleep(0.05)
        return real(descriptor, content)

    monkeypatch.setattr(os, "write", write)
    sends = [Send(trades(100, 100 * n, "AB")) for n in range(300)]
    server = fault_server([Subscribed("A", "B"), *sends])
    record = session(server.url, ("A", "B"), lanes=lanes, queue_bytes=1_000 * lanes).record()
    assert record.outcome == "failed"
    kept = {row.trade for row in sealed_rows(store, record.session)}
    (lost, *_) = [each for each in server.connection(0).written if not kept.issuperset(each.trades)]
    (gap,) = record.gaps
    assert lost.ended_ns < time.time_ns() - NS_PER_S // 2
    assert gap.start_ns <= lost.ended_ns
    assert gap.end_ns == record.deadline_ns
