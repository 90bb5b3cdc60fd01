"""How is an exact number shown: with all its digits, and no zeros that say nothing?"""

from decimal import Decimal


def trimmed(value: Decimal) -> Decimal:
    """The same number without zeros at its end and without an exponent."""
    short = value.normalize()
    return short if short.as_tuple().exponent <= 0 else short.quantize(Decimal(1))  # type: ignore[operator]
