"""Parses and formats durations in settings and on the command line.

A duration is a number and its unit, larger units first: `90s`, `5m`, `1h30m`, `250ms`, `2d`, `1.5h`; a plain number is
seconds. In code, a duration is an int of nanoseconds.
"""

import re
from decimal import Decimal

from tasks.errors import SettingsError

_UNITS_NS = {
    "d": 86_400_000_000_000,
    "h": 3_600_000_000_000,
    "m": 60_000_000_000,
    "s": 1_000_000_000,
    "ms": 1_000_000,
    "us": 1_000,
    "ns": 1,
}
_NUMBER = r"[0-9]{1,18}(?:\.[0-9]{1,18})?"
_DURATION = re.compile(r"\s*".join(f"(?:({_NUMBER})\\s*{unit})?" for unit in _UNITS_NS))
_PLAIN = re.compile(_NUMBER)
# Ten years; added to or subtracted from any time in this century, it still fits in 64 bits of nanoseconds.
_LONGEST_NS = 3_650 * _UNITS_NS["d"]
_EXAMPLES = "write 90s, 5m, 1h30m, 250ms or 2d (a plain number is seconds)"


def duration_ns(text: str) -> int:
    """Parse a duration of 0 to ten years and return it in ns, without fractions of a nanosecond.

    Raises SettingsError, with examples, for any other text.
    """
    words = text.strip()
    if _PLAIN.fullmatch(words):
        words += "s"
    match = _DURATION.fullmatch(words)
    if not words or match is None:
        raise SettingsError(f"{text[:40]!r} is not a duration: {_EXAMPLES}")
    parts = zip(match.groups(), _UNITS_NS.values(), strict=True)
    total = int(sum((Decimal(number) * unit for number, unit in parts if number), Decimal(0)))
    if total > _LONGEST_NS:
        raise SettingsError(f"{text[:40]!r} is more than ten years: {_EXAMPLES}")
    return total


def duration_or_off(text: str) -> int | None:
    """Like `duration_ns`, but return None for `off`."""
    if text.strip().lower() == "off":
        return None
    try:
        return duration_ns(text)
    except SettingsError as error:
        raise SettingsError(f"{error}, or off") from error


def format_duration(ns: int) -> str:
    """Return the shortest text that `duration_ns` parses as `ns`; a negative duration gets a minus sign.

    Below a second, it uses the largest unit of at least one: `250ms`, `1.5us`; otherwise `1d2h`, `1m30.25s`.
    """
    if ns < 0:
        return f"-{format_duration(-ns)}"
    if ns < _UNITS_NS["s"]:
        unit = next((unit for unit in ("ms", "us", "ns") if ns >= _UNITS_NS[unit]), "s")
        return _amount(ns, unit)
    text = ""
    for unit in ("d", "h", "m"):
        whole, ns = divmod(ns, _UNITS_NS[unit])
        text += f"{whole}{unit}" if whole else ""
    return text + _amount(ns, "s") if ns or not text else text


def _amount(ns: int, unit: str) -> str:
    whole, rest = divmod(ns, _UNITS_NS[unit])
    digits = f"{rest:0{len(str(_UNITS_NS[unit])) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{digits}{unit}" if digits else f"{whole}{unit}"
