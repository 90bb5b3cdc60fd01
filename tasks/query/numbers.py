"""Formats numbers for people, without meaningless zeros and without an exponent."""

from decimal import Decimal

import numpy as np

_DECIMALS = 9


def trimmed(value: Decimal) -> Decimal:
    """Return the same number without trailing zeros and without an exponent."""
    short = value.normalize()
    return short if short.as_tuple().exponent <= 0 else short.quantize(Decimal(1))  # type: ignore[operator]


def plain_number(value: float) -> str:
    """Return the shortest text that reads back as the number, of at most nine decimals."""
    return str(np.format_float_positional(value, precision=_DECIMALS, unique=True, fractional=True, trim="-"))
