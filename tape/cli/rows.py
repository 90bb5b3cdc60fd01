"""Prints rows as a table, CSV, or JSON, each row as it arrives."""

import csv
import re
import sys
from collections.abc import Iterable
from decimal import Decimal
from itertools import chain
from typing import Any

import msgspec

from tasks.shown import plain

_ROWS_THAT_SET_WIDTHS = 1_000
# Right-aligned: a number, a share, or a dash for none.
_NUMBER = re.compile(r"-?[0-9][0-9,]*(\.[0-9]+)?( %)?|–|")


def print_rows(columns: tuple[str, ...], rows: Iterable[Iterable[Any]], as_csv: bool) -> None:
    """Print rows as CSV, or as a table whose widths come from its first rows; each row as it arrives."""
    texts = ([each if type(each) is str else _text(each) for each in row] for row in rows)
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(texts)
        return
    first = [row for row, _ in zip(texts, range(_ROWS_THAT_SET_WIDTHS), strict=False)]
    widths = [max(len(row[place]) for row in (columns, *first)) for place in range(len(columns))]
    numeric = [bool(first) and all(_NUMBER.fullmatch(row[place]) for row in first) for place in range(len(columns))]
    for row in chain([columns], first, texts):
        cells = zip(map(plain, row), widths, numeric, strict=True)
        print("  ".join(f"{each:>{width}}" if right else f"{each:<{width}}" for each, width, right in cells).rstrip())


def _text(value: Any) -> str:
    if isinstance(value, Decimal):
        return f"{value:f}"
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def print_json(value: Any) -> None:
    """Print one line of JSON."""
    print(as_json_line(value))


def as_json_line(value: Any) -> str:
    """Return one line of JSON; a Decimal is a number with all its digits."""
    return msgspec.json.encode(_plain(value)).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return msgspec.Raw(f"{value:f}".encode())
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
