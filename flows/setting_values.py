"""What does the text of a setting mean, and which texts are refused?

Each reader takes what the environment or a caller gives and raises ValueError, in words that follow the setting's
name. No reader repeats a text that could hold a secret: a URL, a key.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import urlsplit

from tasks.duration import duration_ns, duration_or_off, format_duration
from tasks.errors import SettingsError

_BYTES = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)\s*([kmgt]i?)?b?", re.IGNORECASE)
_POWERS = " kmgt"

Value = TypeVar("Value")


def symbols(given: str | Iterable[str]) -> tuple[str, ...]:
    """The symbols of a list, each once, in the order given; commas or spaces part them.

    A symbol travels in a URL-less JSON message and in an unquoted CSV field: printable, no quote, at most 64 letters.
    """
    words = re.split(r"[,\s]+", given) if isinstance(given, str) else [str(word) for word in given]
    unique = tuple(dict.fromkeys(word for word in words if word))
    for word in unique:
        if len(word) > 64 or not word.isprintable() or set(word) & set(" ,;\"'\\"):
            raise ValueError(f"{word[:40]!r} is not a symbol (printable, no space, comma or quote, at most 64 letters)")
    return unique


def duration(*, at_least: str = "0s", at_most: str = "3650d") -> Callable[[object], int]:
    """A reader of durations within limits; gives ns."""

    def read(given: object) -> int:
        ns = _told(duration_ns, given)
        if not duration_ns(at_least) <= ns <= duration_ns(at_most):
            raise ValueError(f"{format_duration(ns)} is not between {at_least} and {at_most}")
        return ns

    return read


def optional_duration(given: object) -> int | None:
    """A duration in ns, or None for `off`."""
    return None if given is None else _told(duration_or_off, given)


def kept_for(given: object) -> int | None:
    """A duration in ns, or None for `forever`."""
    if str(given).strip().lower() == "forever":
        return None
    try:
        return _told(duration_ns, given)
    except ValueError as error:
        raise ValueError(f"{error}, or forever") from error


def optional_size(*, at_least: int) -> Callable[[object], int | None]:
    """A reader of amounts of data as `size`; None for `off`."""

    def read(given: object) -> int | None:
        return None if str(given).strip().lower() == "off" else size(at_least=at_least)(given)

    return read


def size(*, at_least: int) -> Callable[[object], int]:
    """A reader of amounts of data, such as `64MiB`, `1.5GB` or a plain number of bytes; gives bytes."""

    def read(given: object) -> int:
        match = _BYTES.fullmatch(str(given).strip())
        if match is None:
            raise ValueError(f"{str(given)[:40]!r} is not an amount of data (write 64MiB, 1.5GB or a number of bytes)")
        unit = (match[2] or " ").lower()
        total = int(float(match[1]) * (1024 if unit.endswith("i") else 1000) ** _POWERS.index(unit[0]))
        if total < at_least:
            raise ValueError(f"{total:,} bytes is too little, it takes at least {at_least:,}")
        return total

    return read


def count(*, at_least: int, at_most: int) -> Callable[[object], int]:
    """A reader of whole numbers within limits."""

    def read(given: object) -> int:
        text = str(given).strip()
        if not re.fullmatch(r"[0-9]{1,9}", text) or not at_least <= int(text) <= at_most:
            raise ValueError(f"{text[:40]!r} is not a whole number from {at_least} to {at_most}")
        return int(text)

    return read


def share(given: object) -> float:
    """A share such as `95%`; gives it as a number from 0 to 1."""
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%", str(given).strip())
    if match is None or float(match[1]) > 100:
        raise ValueError(f"{str(given)[:40]!r} is not a share (write 95% or 99.5%)")
    return float(match[1]) / 100


def lanes(given: object) -> int | Literal["ticker"]:
    """A number of lanes, or `ticker`: one for each symbol."""
    if str(given).strip().lower() == "ticker":
        return "ticker"
    try:
        return count(at_least=1, at_most=1_000)(given)
    except ValueError as error:
        raise ValueError(f"{error}, nor 'ticker'") from error


def url(*schemes: str) -> Callable[[object], str]:
    """A reader of URLs of those schemes that hold no secret: no user, no query."""

    def read(given: object) -> str:
        text = str(given).strip()
        try:
            parts = urlsplit(text)
            host, _port = parts.hostname, parts.port
        except ValueError:
            host, parts = None, urlsplit("")
        # The text is not repeated: a token may stand in it, wherever it was put.
        if "@" in parts.netloc or "?" in text or "#" in text or "token=" in text.lower():
            raise ValueError("carries a user, a token or a query; give the address alone, secrets have their settings")
        if parts.scheme.lower() not in schemes or not host or re.search(r"\s", text):
            raise ValueError(f"is not a URL of {' or '.join(schemes)} with a host")
        return text

    return read


def matching(pattern: str, what: str) -> Callable[[object], str]:
    """A reader of texts of one form, described by `what`; does not repeat the text."""

    def read(given: object) -> str:
        text = str(given).strip()
        if not re.fullmatch(pattern, text):
            raise ValueError(f"is not {what}")
        return text

    return read


def data_folder(given: object) -> Path:
    """An absolute path that is a folder or nothing yet: it is handed to processes that run elsewhere."""
    path = _path(given)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is not a folder")
    return path


def existing_file(given: object) -> Path:
    """An absolute path of a file that is there."""
    path = _path(given)
    if not path.is_file():
        raise ValueError(f"{path} is no file")
    return path


def _path(given: object) -> Path:
    try:
        return Path(str(given)).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"{given} begins with a home that nobody knows; write the whole path") from error
    except FileNotFoundError as error:
        raise ValueError(f"{given} begins in the working folder, which is gone; write the whole path") from error


def _told(read: Callable[[str], Value], given: object) -> Value:
    try:
        return read(str(given))
    except SettingsError as error:
        raise ValueError(str(error)) from error
