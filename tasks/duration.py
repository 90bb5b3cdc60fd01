"""How is a length of time written in a setting or on the command line, and shown to a person?

A number and its unit, larger units first: `90s`, `5m`, `1h30m`, `250ms`, `2d`, `1.5h`; a plain number is seconds.
Inside, a length of time is an int of nanoseconds.
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
# Ten years. Added to or taken from any time of this century it still fits 64 bits of nanoseconds.
_LONGEST_NS = 3_650 * _UNITS_NS["d"]
_EXAMPLES = "write 90s, 5m, 1h30m, 250ms or 2d (a plain number is seconds)"


def duration_ns(text: str) -> int:
    """The length of time that `text` says, in ns: 0 to ten years, parts of a nanosecond cut off.

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
    """As `duration_ns`, and None for `off`. Raises SettingsError for any other text."""
    if text.strip().lower() == "off":
        return None
    try:
        return duration_ns(text)
    except SettingsError as error:
        raise SettingsError(f"{error}, or off") from error


def format_duration(ns: int) -> str:
    """The shortest text that `duration_ns` reads back as `ns`; a negative time gets a minus sign before it.

    Below a second in the largest unit that gives a whole part: `250ms`, `1.5us`; else as `1d2h`, `1m30.25s`.
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
