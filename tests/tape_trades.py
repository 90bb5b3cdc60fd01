"""Reads a tape as single trades."""

from collections.abc import Iterator
from pathlib import Path

from tasks.records.trade import NS_PER_MS, Trade
from tasks.replay.tape_file import read_tape


def read_trades(path: Path) -> Iterator[Trade]:
    """Yield the same as `read_tape`, one Trade at a time."""
    for block in read_tape(path):
        for at_ms, symbol, price, size, conditions in block:
            codes = tuple(conditions.split(";")) if conditions else ()
            yield Trade(at_ms * NS_PER_MS, symbol, price, size, codes)
