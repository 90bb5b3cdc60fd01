"""Clocks: the only place where the capture gets the time from, so that tests can set it."""

import time
from collections.abc import Callable
from dataclasses import dataclass


def _since_boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _asleep_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class Clock:
    """`wall_ns` is UTC and may be stepped; `monotonic_ns` measures durations and never goes back.

    Unlike Python's own, `monotonic_ns` includes time in which the machine was suspended: a deadline must not move
    because a laptop slept. `asleep_ns` is how long the machine has been suspended since it booted.
    """

    wall_ns: Callable[[], int] = time.time_ns
    monotonic_ns: Callable[[], int] = _since_boot_ns
    asleep_ns: Callable[[], int] = _asleep_ns
