"""The check of a connection's numbers over the batches of several lanes."""

import numpy as np

from tasks.verify.order import Order


def take(order: Order, seqs: list[int], times_ns: list[int] | None = None, connection: int = 1) -> list[str]:
    times = [seq * 10 for seq in seqs] if times_ns is None else times_ns
    return order.add(connection, np.array(seqs, np.int64), np.array(times, np.int64))


def test_numbers_from_one_on_in_any_batches_break_nothing() -> None:
    """Numbers missing from one lane may come with another lane's batch; then there is no hole."""
    order = Order()
    assert take(order, [1, 2, 5]) == []
    assert take(order, []) == []
    assert take(order, [4, 7]) == []
    assert take(order, [3, 6]) == []
    assert order.settle({}) == []
    assert take(order, [8]) == []
    assert order.settle({}) == []


def test_a_number_that_is_there_twice_is_told_with_its_connection() -> None:
    """A duplicate is found within a batch, in the window, and before it; the next number is still accepted."""
    order = Order()
    assert take(order, [1, 2, 2]) == ["connection 1: 1 numbers of recv_seq are there twice"]
    assert take(order, [1, 2]) == ["connection 1: 2 numbers of recv_seq are there twice"]
    assert take(order, [5, 6]) == []
    assert take(order, [1, 5, 6, 6, 3]) == ["connection 1: 4 numbers of recv_seq are there twice"]
    assert take(order, [4]) == []
    assert take(order, [1] * 1500, connection=2) == ["connection 2: 1,499 numbers of recv_seq are there twice"]
    assert order.settle({}) == []


def test_holes_are_counted_from_the_first_one_on() -> None:
    """Each connection with holes is reported separately and once."""
    order = Order()
    take(order, [1, 3, 4, 7])
    take(order, [2], connection=2)
    assert order.settle({}) == [
        "connection 1: 3 trades from recv_seq 2 on are missing",
        "connection 2: 1 trades from recv_seq 1 on are missing",
    ]
    assert order.settle({}) == []
    assert take(order, [8]) == []
    assert take(order, [7]) == ["connection 1: 1 numbers of recv_seq are there twice"]
    assert take(order, [3], connection=2) == []


def test_the_loss_of_a_killed_lane_is_tolerated_behind_its_number() -> None:
    """Holes up to the tolerated number break the law, later ones do not; other connections are checked fully."""
    for last, missing in ((1, 0), (2, 1), (3, 1), (5, 2), (6, 3)):
        order = Order()
        take(order, [1, 3, 4, 7])
        told = [f"connection 1: {missing} trades from recv_seq 2 on are missing"] if missing else []
        assert order.settle({1: last, 2: 0}) == told
    order = Order()
    take(order, [2])
    assert len(order.settle({2: 0})) == 1


def test_times_that_run_backwards_are_counted_in_the_order_of_the_numbers() -> None:
    """Equal times are in order; times are compared with the last one before, also across a hole."""
    order = Order()
    assert take(order, [1, 2, 3, 4], [10, 10, 9, 8]) == ["connection 1: ts_recv runs backwards 2 times"]
    assert take(order, [5], [7]) == ["connection 1: ts_recv runs backwards 1 times"]
    assert take(order, [6], [7]) == []
    assert take(order, [9, 8], [3, 2]) == []
    assert order.settle({}) == [
        "connection 1: 1 trades from recv_seq 7 on are missing",
        "connection 1: ts_recv runs backwards 1 times",
    ]
    assert take(order, [10], [2]) == ["connection 1: ts_recv runs backwards 1 times"]
    assert take(order, [10, 11], [2, 2], connection=3) == []


def test_both_laws_can_be_broken_at_once() -> None:
    """A duplicate number and a decreasing time are reported in separate sentences."""
    order = Order()
    assert take(order, [1, 2, 2], [9, 8, 8]) == [
        "connection 1: 1 numbers of recv_seq are there twice",
        "connection 1: ts_recv runs backwards 1 times",
    ]


def test_times_are_compared_to_the_nanosecond() -> None:
    """Receive times stay exact to the nanosecond even while they wait behind a hole."""
    order, now_ns = Order(), 1_795_530_600_000_000_001
    assert take(order, [2, 3], [now_ns, now_ns - 1]) == []
    assert take(order, [1], [1]) == ["connection 1: ts_recv runs backwards 1 times"]
