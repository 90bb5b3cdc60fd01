"""Finds missing trade numbers between the batches of a session, for feeds that number trades.

Apart from `trade_numbers.py`, which imports Polars: a list of sessions needs none of it.
"""

from collections.abc import Iterable

from tasks.archive.batch_facts import BatchFacts
from tasks.records.gaps import overlaps
from tasks.records.ledger import Gap
from tasks.records.manifest import MissingIds, Report


def missing_and_named(batches: Iterable[Report | BatchFacts], gaps: Iterable[Gap]) -> tuple[int, int]:
    """Return how many numbers a session lacks, and how many of those lie in a recorded gap of their symbol.

    `batches` has the report or summary of every batch of the session, in order within each lane. A missing number
    lies in a gap if the gap overlaps the time between the trades before and after it.
    """
    reports = list(batches)
    holes = [hole for report in reports for hole in report.missing_ids] + _between(reports)
    of_symbol: dict[str, list[Gap]] = {}
    for gap in gaps:
        for symbol in gap.symbols:
            of_symbol.setdefault(symbol, []).append(gap)
    unlisted = sum(report.missing_ids_unlisted for report in reports)
    named = sum(
        hole.count for hole in holes if any(overlaps(gap, *hole.span_ns) for gap in of_symbol.get(hole.symbol, ()))
    )
    return sum(hole.count for hole in holes) + unlisted, named


def _between(reports: list[Report | BatchFacts]) -> list[MissingIds]:
    """Return the numbers missing between consecutive batches; all batches of a symbol are of one lane."""
    holes = []
    for symbol in sorted({symbol for report in reports for symbol in report.trade_ids}):
        ranges = [each for report in reports if (each := report.trade_ids.get(symbol))]
        last = ranges[0]
        for each in ranges[1:]:
            if each.first_id > last.last_id + 1:
                holes.append(
                    MissingIds(symbol, last.last_id + 1, each.first_id - 1, last.last_recv_ns, each.first_recv_ns)
                )
            last = max(last, each, key=lambda known: known.last_id)
    return holes
