"""Operations on spans match the same operations on sets of instants."""

from hypothesis import given
from hypothesis import strategies as st

from tasks.spans import Span, Spans, intersect, length, subtract, union

ANY = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)))


def instants(spans: list[Span] | Spans) -> set[int]:
    return {ns for start, end in spans for ns in range(start, end)}


def is_tidy(spans: Spans) -> bool:
    """Check that spans are sorted, not adjacent, and not empty."""
    edges = [edge for span in spans for edge in span]
    return edges == sorted(set(edges))


@given(ANY, ANY)
def test_spans_are_sets_of_instants(first: list[Span], second: list[Span]) -> None:
    """Union, intersection, difference, and length match those of sets, and results are normalized."""
    left, right = union(first), union(second)
    assert instants(left) == instants(first)
    assert instants(intersect(left, right)) == instants(first) & instants(second)
    assert instants(subtract(left, right)) == instants(first) - instants(second)
    assert length(left) == len(instants(first))
    assert all(map(is_tidy, (left, intersect(left, right), subtract(left, right))))
