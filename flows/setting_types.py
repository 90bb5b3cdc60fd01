"""What does the text of a setting mean, and which texts are refused?

Each reader takes what the environment or a caller gives and raises ValueError, in words that follow the setting's
name. No reader repeats a text that could hold a secret: a URL, a key.
"""

import re
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import urlsplit, urlunsplit

from tasks.duration import duration_ns, duration_or_off, format_duration
from tasks.errors import SettingsError
from tasks.feeds.registry import FEEDS
from tasks.feeds.symbols import read_symbols

_BYTES = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)\s*([kmgt]i?)?b?", re.IGNORECASE)
_POWERS = " kmgt"

Given = TypeVar("Given")
Value = TypeVar("Value")


def symbols(given: object) -> tuple[str, ...]:
    """The symbols of a text or a list."""
    return _told(read_symbols, given)


def duration(*, at_least: str = "0s", at_most: str = "3650d") -> Callable[[object], int]:
    """A reader of durations within limits; gives ns."""

    def read(given: object) -> int:
        ns = _told(duration_ns, str(given))
        if not duration_ns(at_least) <= ns <= duration_ns(at_most):
            raise ValueError(f"{format_duration(ns)} is not between {at_least} and {at_most}")
        return ns

    return read


def optional_duration(given: object) -> int | None:
    """A duration in ns, or None for `off`."""
    return None if given is None else _told(duration_or_off, str(given))


def kept_for(given: object) -> int | None:
    """A duration in ns, or None for `forever`."""
    if str(given).strip().lower() == "forever":
        return None
    try:
        return _told(duration_ns, str(given))
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


def feed(given: object) -> str:
    """The name of a feed that can be recorded."""
    name = str(given).strip().lower()
    if name not in FEEDS:
        raise ValueError(f"{name[:40]!r} is not a feed (choose {' or '.join(FEEDS)})")
    return name


def url(*schemes: str) -> Callable[[object], str]:
    """A reader of URLs of those schemes that hold no secret: no user, no query. Gives scheme and host in lower case."""

    def read(given: object) -> str:
        text = str(given).strip()
        try:
            parts = urlsplit(text)
            host, port = _host(parts.hostname or ""), parts.port
        except ValueError:
            host, port, parts = "", None, urlsplit("")
        # The text is not repeated: a token may stand in it, wherever it was put.
        if "@" in parts.netloc or "?" in text or "#" in text or "token=" in text.lower():
            raise ValueError("carries a user, a token or a query; give the address alone, secrets have their settings")
        if parts.scheme not in schemes or not host or port == 0 or not re.fullmatch(r"[!-~]*", parts.path):
            raise ValueError(f"is not a URL of {' or '.join(schemes)} with a host and, if any, a port up to 65535")
        if re.search(r"\s", text):  # urlsplit drops tabs and line ends without a word.
            raise ValueError("holds a space or a line end")
        return urlunsplit((parts.scheme, host if port is None else f"{host}:{port}", parts.path, "", ""))

    return read


def _host(host: str) -> str:
    """A host as it stands in a URL, so that TLS and HTTP get it as a certificate spells it.

    Names are in ASCII and without the dot at their end. Raises ValueError for what is neither a name nor an address.
    """
    if ":" in host:
        return f"[{ip_address(host)}]"
    name = host.encode("idna").decode().lower().removesuffix(".")
    if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", name):
        raise ValueError("no name of a host")
    return name


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


def _told(read: Callable[[Given], Value], given: Given) -> Value:
    try:
        return read(given)
    except SettingsError as error:
        raise ValueError(str(error)) from error
