"""Groups a tape's trades by when they are sent, on the tape's own clock."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tasks.replay.tape_file import TapeRow


@dataclass(frozen=True, slots=True)
class Group:
    """Trades that are sent together, in the tape's order, when the tape's clock reaches `due_ms`."""

    due_ms: int
    rows: list[TapeRow]


def groups(blocks: Iterable[list[TapeRow]], tick_ms: int, most: int) -> Iterator[Group]:
    """Split a tape into groups of at most `most` trades in the same tick of `tick_ms`.

    The tape's clock never goes back: a print with an event time before its predecessor's is late, and is sent at its
    place in the tape.
    """
    rows: list[TapeRow] = []
    end_ms: int | None = None
    for block in blocks:
        for row in block:
            if end_ms is None:
                end_ms = row[0] + tick_ms
            elif row[0] >= end_ms or len(rows) == most:
                yield Group(end_ms, rows)
                rows = []
                if row[0] >= end_ms:
                    end_ms += ((row[0] - end_ms) // tick_ms + 1) * tick_ms
            rows.append(row)
    if rows and end_ms is not None:
        yield Group(end_ms, rows)
