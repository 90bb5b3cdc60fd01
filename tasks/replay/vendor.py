"""The contract between the replay and the code that imitates one vendor's websocket.

A vendor is pure: no sockets, no clocks. One vendor object serves one tape; each client's subscriptions are a set of
symbols, which `answer` changes.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from tasks.replay.tape_file import TapeRow


@dataclass(frozen=True, slots=True)
class EventTimes:
    """The event times to send: `base_ms + (t − tape_ms) / speed` for a time `t` of the tape.

    Original times have `base_ms = tape_ms` and speed 1; at infinite speed all are `base_ms`.
    """

    base_ms: int
    tape_ms: int
    speed: float

    def ms(self, tape_ms: int) -> int:
        """Return the event time (UTC ms) to send for a time of the tape."""
        return self.base_ms + int((tape_ms - self.tape_ms) / self.speed)


class Vendor(Protocol):
    """One vendor's protocol. Rows are the tape's, followed by whatever `numbered` adds.

    `beat_every_s` is the interval between calls of `beat`.
    """

    @property
    def needs_token(self) -> bool: ...
    @property
    def beat_every_s(self) -> float: ...

    def answer(self, message: str | bytes, symbols: set[str], most: int) -> list[str]:
        """Handle a client's message and return the vendor's answers; it may subscribe to at most `most` symbols."""
        ...

    def numbered(self, rows: list[TapeRow], times: EventTimes) -> list[Any]:
        """Return the tape's next rows, each with its number if the vendor numbers its trades."""
        ...

    def messages(self, rows: list[Any], times: EventTimes) -> list[bytes]:
        """Return the messages for these rows; prices and sizes have the digits of the tape."""
        ...

    def beat(self, symbols: set[str], now_ms: int) -> list[bytes]:
        """Return the vendor's periodic messages, such as pings or heartbeats."""
        ...
