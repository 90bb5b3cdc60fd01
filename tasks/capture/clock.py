"""What time is it? The one record through which the capture asks, so that tests can answer."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """`wall_ns` is UTC and may be stepped; `monotonic_ns` only measures durations, and never goes back."""

    wall_ns: Callable[[], int] = time.time_ns
    monotonic_ns: Callable[[], int] = time.monotonic_ns
