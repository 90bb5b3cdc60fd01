"""Set operations on time intervals: union, intersection, difference, and length.

A span is (start, end) in ns, excluding its end. `Spans` are sorted, do not touch each other, and are not empty.
"""

from collections.abc import Iterable
from functools import lru_cache

Span = tuple[int, int]
Spans = tuple[Span, ...]


def union(spans: Iterable[Span]) -> Spans:
    """Return the union of spans, which may overlap and be in any order."""
    joined: list[Span] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return tuple(joined)


@lru_cache(maxsize=1024)  # Nearly all of hundreds of symbols have the same spans.
def intersect(left: Spans, right: Spans) -> Spans:
    """Return the intersection of both."""
    found: list[Span] = []
    i = j = 0
    while i < len(left) and j < len(right):
        start, end = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if start < end:
            found.append((start, end))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


def subtract(whole: Spans, parts: Spans) -> Spans:
    """Return `whole` without `parts`."""
    if not parts or not whole:
        return whole
    # Intersect with the gaps before, between, and after the parts; an inverted one (start after end) is empty.
    edges = [whole[0][0], *(edge for part in parts for edge in part), whole[-1][1]]
    return intersect(whole, tuple(zip(edges[::2], edges[1::2], strict=True)))


def length(spans: Spans) -> int:
    """Return the total length in ns."""
    return sum(end - start for start, end in spans)
