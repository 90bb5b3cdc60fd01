"""What time is it? The one record through which the capture asks, so that tests can answer."""

import time
from collections.abc import Callable
from dataclasses import dataclass


def _since_boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _asleep_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class Clock:
    """`wall_ns` is UTC and may be stepped; `monotonic_ns` only measures durations, and never goes back.

    `monotonic_ns` also counts the time in which the machine was suspended, unlike Python's own: a deadline must not
    move because a laptop slept. `asleep_ns` is how long it has been suspended since it started.
    """

    wall_ns: Callable[[], int] = time.time_ns
    monotonic_ns: Callable[[], int] = _since_boot_ns
    asleep_ns: Callable[[], int] = _asleep_ns
