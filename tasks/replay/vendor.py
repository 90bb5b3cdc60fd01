"""What a replay needs to know of a vendor to speak as its websocket does.

Pure: no socket, no clock. One vendor object serves one tape; each client's subscriptions are a set of symbols, which
`answer` changes.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from tasks.replay.tape_file import TapeRow


@dataclass(frozen=True, slots=True)
class EventTimes:
    """Which event time is sent for a tape's: `base_ms + (t − tape_ms) / speed`.

    The original ones have `base_ms = tape_ms` and speed 1; at an infinite speed all are `base_ms`.
    """

    base_ms: int
    tape_ms: int
    speed: float

    def ms(self, tape_ms: int) -> int:
        """Return the event time (UTC ms) that is sent for that one of the tape."""
        return self.base_ms + int((tape_ms - self.tape_ms) / self.speed)


class Vendor(Protocol):
    """One vendor's way to speak. Rows are those of the tape, with whatever `numbered` adds behind their five fields.

    `beat_every_s` is how long a client waits for `beat`.
    """

    @property
    def needs_token(self) -> bool: ...
    @property
    def beat_every_s(self) -> float: ...

    def answer(self, message: str | bytes, symbols: set[str], most: int) -> list[str]:
        """Do what a client says and return the vendor's answers; it may subscribe to at most so many symbols."""
        ...

    def numbered(self, rows: list[TapeRow]) -> list[Any]:
        """Return the tape's next rows, each with its number where the vendor numbers its trades."""
        ...

    def messages(self, rows: list[Any], times: EventTimes) -> list[bytes]:
        """Return the messages that bring these rows, prices and sizes digit by digit as the tape has them."""
        ...

    def beat(self, symbols: set[str], now_ms: int) -> list[bytes]:
        """Return what the vendor sends from time to time, whatever the market does."""
        ...
