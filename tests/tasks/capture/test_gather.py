"""Reads are gathered for a moment and handed on together; each keeps its own time."""

import threading
from itertools import count

from faults import Drop, Raw, Stall, StartServer

from tasks.capture.feed import connect
from tasks.capture.lanes import ByteQueue, Roll

# No gathering ends because its time is over.
ENDLESS_NS = 3600 * 10**9


def test_each_read_keeps_its_own_time_and_the_end_comes_after_the_bytes(fault_server: StartServer) -> None:
    """The second bytes are sent only once the first are stamped; the next read reports the feed's end."""
    stamped, times = threading.Event(), count(1)

    def now_ns() -> int:
        stamped.set()
        return next(times)

    server = fault_server([Raw(b"first"), Stall(stamped), Raw(b"second"), Drop()])
    connection = connect(server.url, 5.0)
    first = connection.read(5.0)
    assert first == b"first"
    assert [(at_ns, chunk) for at_ns, chunk, _ in connection.gather(first, now_ns, ENDLESS_NS)] == [
        (1, b"first"),
        (2, b"second"),
    ]
    assert connection.read(5.0) == b""
    connection.close()


def test_a_wake_ends_the_gathering_at_once_and_only_that_one(fault_server: StartServer) -> None:
    """An order from the main thread ends the current gathering at once, and only that one."""
    times, goes = count(1), threading.Event()
    server = fault_server([Raw(b"first"), Stall(goes), Raw(b"more"), Drop()])
    connection = connect(server.url, 5.0)
    first = connection.read(5.0)
    assert first == b"first"
    connection.wake()
    assert [chunk for _, chunk, _ in connection.gather(first, times.__next__, ENDLESS_NS)] == [b"first"]
    goes.set()
    assert [chunk for _, chunk, _ in connection.gather(b"", times.__next__, ENDLESS_NS)] == [b"", b"more"]
    connection.close()


def test_items_put_together_wake_the_taker_once_and_keep_their_order() -> None:
    """Items that do not fit wait for room, and the taker knows of those before them."""
    queue, took = ByteQueue(2), list[object]()
    items = [Roll(list, size_bytes=1) for _ in range(6)]
    putting = threading.Thread(target=queue.put, args=items)
    putting.start()
    while len(took) < len(items):
        some = queue.take_all(10.0)
        took += some
        queue.taken(sum(item.size_bytes for item in some))
    putting.join()
    assert all(one is other for one, other in zip(took, items, strict=True))
