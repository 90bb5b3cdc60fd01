"""Produces the next piece in a thread while the current one is being processed.

Reading, hashing, and compressing release the GIL, so a second core helps.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Piece = TypeVar("Piece")
_END = object()


def prefetch(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Yield the same pieces in order, each produced in another thread while the caller processes the one before.

    The first piece is started at once. An error in producing a piece is raised in its turn. A caller that stops early
    waits for the piece being produced.
    """
    thread = ThreadPoolExecutor(1, "ahead")
    return _given(thread, thread.submit(next, pieces, _END), pieces)


def _given(thread: ThreadPoolExecutor, coming: "Future[Any]", pieces: Iterator[Piece]) -> Iterator[Piece]:
    with thread:
        while (piece := coming.result()) is not _END:
            coming = thread.submit(next, pieces, _END)
            yield piece
            del piece  # Otherwise three pieces are in memory at once.
