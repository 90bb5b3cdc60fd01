"""Reconnect waits grow with each failure in a row and start over after a healthy minute."""

import threading
from dataclasses import dataclass

import pytest
from faults import Answer, Connection, Drop, Stall, StartServer, Step, Subscribed
from recording import StartSession

from tasks.capture.clock import Clock
from tasks.capture.listener import Backoff
from tasks.records.trade import NS_PER_S


class Jumping:
    """A clock that the test moves, and a random source that notes its upper limits and never waits."""

    def __init__(self) -> None:
        self.ahead_ns = 0
        self.most_s: list[float] = []

    def clock(self) -> Clock:
        real = Clock()
        return Clock(real.wall_ns, lambda: real.monotonic_ns() + self.ahead_ns, lambda: 0)

    def roll(self, least_s: float, most_s: float) -> float:
        assert least_s == 0
        self.most_s.append(most_s)
        return 0.0


@dataclass(frozen=True, slots=True)
class Lasts:
    """A step: let the connection last so many more seconds."""

    jumping: Jumping
    seconds: int

    def run(self, connection: Connection) -> None:
        self.jumping.ahead_ns += self.seconds * NS_PER_S


def test_only_a_healthy_minute_makes_the_waits_short_again(fault_server: StartServer, session: StartSession) -> None:
    """A connection refused or lost within a minute doubles the longest wait; one that lasted a minute resets it."""
    jumping, over = Jumping(), threading.Event()

    def lasting(seconds: int) -> list[Step]:
        return [Subscribed("A"), Lasts(jumping, seconds), Drop()]

    server = fault_server(
        lasting(0), lasting(0), [Answer(503)], lasting(45), lasting(60), lasting(0), lasting(60), [Subscribed("A"),
        Stall(over)],
    )  # fmt: skip
    recording = session(
        server.url, clock=jumping.clock(), backoff=Backoff(first_s=1.0, most_s=100.0, uniform=jumping.roll),
        ping_every_s=1_000.0,
    )  # fmt: skip
    server.connection(7).wait_heard("subscribe", "A")
    over.set()
    record = recording.end()
    assert jumping.most_s[:7] == [2, 4, 8, 16, 1, 2, 1]
    assert record.connections == 7


@pytest.mark.parametrize(("failures", "most_s"), [(0, 0.5), (1, 1), (3, 4), (5, 16), (6, 30), (7, 30), (10_000, 30)])
def test_a_wait_is_anything_up_to_a_doubling_time_with_an_upper_end(failures: int, most_s: float) -> None:
    """The longest wait is half a second, doubled for each failure in a row, up to half a minute."""
    jumping = Jumping()
    assert Backoff(uniform=jumping.roll).wait_s(failures) == 0
    assert jumping.most_s == [most_s]
    assert all(0 <= Backoff().wait_s(failures) <= most_s for _ in range(100))
