"""How is the next piece made while this one is worked on?

Reading, hashing and compressing leave Python's lock to others, so that a second core is of use.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Piece = TypeVar("Piece")
_END = object()


def prefetch(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The same pieces in the same order, each made in another thread while its caller has the one before.

    The first is begun at once. What making one raises is raised in its turn; a caller that stops early waits for the
    one that is being made.
    """
    thread = ThreadPoolExecutor(1, "ahead")
    return _given(thread, thread.submit(next, pieces, _END), pieces)


def _given(thread: ThreadPoolExecutor, coming: "Future[Any]", pieces: Iterator[Piece]) -> Iterator[Piece]:
    with thread:
        while (piece := coming.result()) is not _END:
            coming = thread.submit(next, pieces, _END)
            yield piece
            del piece  # Else three are in memory at once.
