"""How are stretches of time joined, cut out of each other and added up?

A span is (start, end) in ns, its end excluded. `Spans` are in order, do not touch each other, and none is empty.
"""

from collections.abc import Iterable
from functools import lru_cache

Span = tuple[int, int]
Spans = tuple[Span, ...]


def union(spans: Iterable[Span]) -> Spans:
    """All that lies in any of these, which may overlap and be in any order."""
    joined: list[Span] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return tuple(joined)


@lru_cache(maxsize=1024)  # Of hundreds of symbols nearly all have the same spans.
def intersect(left: Spans, right: Spans) -> Spans:
    """All that lies in both."""
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
    """All of `whole` that does not lie in `parts`."""
    if not parts or not whole:
        return whole
    # Before, between and behind the parts; where a part reaches beyond the whole, that is the wrong way round: nothing.
    edges = [whole[0][0], *(edge for part in parts for edge in part), whole[-1][1]]
    return intersect(whole, tuple(zip(edges[::2], edges[1::2], strict=True)))


def length(spans: Spans) -> int:
    """How long they last together, in ns."""
    return sum(end - start for start, end in spans)
