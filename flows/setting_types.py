"""Parses the values of settings.

Each reader takes a value from the environment or a caller and raises ValueError with words that follow the setting's
name. No reader repeats a value that could contain a secret, such as a URL or key.
"""

import re
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr

from tasks.duration import duration_ns, duration_or_off, format_duration
from tasks.errors import SettingsError
from tasks.feeds.registry import FEEDS
from tasks.feeds.symbols import read_symbols

# pydantic's ByteSize reads `1,000` as one byte and ignores whatever follows the unit.
_BYTES = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)\s*([kmgt]i?)?b?", re.IGNORECASE)
_POWERS = " kmgt"

Given = TypeVar("Given")
Value = TypeVar("Value")


def symbols(given: object) -> tuple[str, ...]:
    """Parse the symbols in a text or a list."""
    return _told(read_symbols, given)


def duration(*, at_least: str = "0s", at_most: str = "3650d") -> Callable[[object], int]:
    """Return a reader of durations within limits, in ns."""

    def read(given: object) -> int:
        ns = _told(duration_ns, str(given))
        if not duration_ns(at_least) <= ns <= duration_ns(at_most):
            raise ValueError(f"{format_duration(ns)} is not between {at_least} and {at_most}")
        return ns

    return read


def optional_duration(given: object) -> int | None:
    """Parse a duration in ns, or None for `off`."""
    return None if given is None else _told(duration_or_off, str(given))


def kept_for(given: object) -> int | None:
    """Parse a duration in ns, or None for `forever`."""
    if str(given).strip().lower() == "forever":
        return None
    try:
        return _told(duration_ns, str(given))
    except ValueError as error:
        raise ValueError(f"{error}, or forever") from error


def optional_size(*, at_least: int) -> Callable[[object], int | None]:
    """Return a reader like `size` that gives None for `off`."""

    def read(given: object) -> int | None:
        return None if str(given).strip().lower() == "off" else size(at_least=at_least)(given)

    return read


def size(*, at_least: int) -> Callable[[object], int]:
    """Return a reader of data sizes, such as `64MiB`, `1.5GB`, or a number of bytes; it gives bytes."""

    def read(given: object) -> int:
        match = _BYTES.fullmatch(str(given).strip())
        if match is None:
            raise ValueError(f"{str(given)[:40]!r} is not a data size (write 64MiB, 1.5GB, or a number of bytes)")
        unit = (match[2] or " ").lower()
        total = int(float(match[1]) * (1024 if unit.endswith("i") else 1000) ** _POWERS.index(unit[0]))
        if total < at_least:
            raise ValueError(f"{total:,} bytes is too small, the minimum is {at_least:,}")
        return total

    return read


def count(*, at_least: int, at_most: int) -> Callable[[object], int]:
    """Return a reader of whole numbers within limits."""

    def read(given: object) -> int:
        text = str(given).strip()
        if not re.fullmatch(r"[0-9]{1,9}", text) or not at_least <= int(text) <= at_most:
            raise ValueError(f"{text[:40]!r} is not a whole number from {at_least} to {at_most}")
        return int(text)

    return read


def share(given: object) -> float:
    """Parse a percentage such as `95%` as a number from 0 to 1."""
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%", str(given).strip())
    if match is None or float(match[1]) > 100:
        raise ValueError(f"{str(given)[:40]!r} is not a percentage (write 95% or 99.5%)")
    return float(match[1]) / 100


def lanes(given: object) -> int | Literal["ticker"]:
    """Parse a number of lanes, or `ticker` for one per symbol."""
    if str(given).strip().lower() == "ticker":
        return "ticker"
    try:
        return count(at_least=1, at_most=1_000)(given)
    except ValueError as error:
        raise ValueError(f"{error}, or 'ticker'") from error


def feed(given: object) -> str:
    """Parse the name of a feed."""
    name = str(given).strip().lower()
    if name not in FEEDS:
        raise ValueError(f"{name[:40]!r} is not a feed (choose {' or '.join(FEEDS)})")
    return name


def url(*schemes: str) -> Callable[[object], str]:
    """Return a reader of URLs without secrets (no user, no query); it gives scheme and host in lower case."""

    def read(given: object) -> str:
        text = str(given).strip()
        try:
            parts = urlsplit(text)
            host, port = _host(parts.hostname or ""), parts.port
        except ValueError:
            host, port, parts = "", None, urlsplit("")
        # The text is not repeated: it may contain a token anywhere.
        if "@" in parts.netloc or "?" in text or "#" in text or "token=" in text.lower():
            raise ValueError(
                "contains a user, a token, or a query; give only the address, secrets have their own settings"
            )
        if parts.scheme not in schemes or not host or port == 0 or not re.fullmatch(r"[!-~]*", parts.path):
            raise ValueError(f"is not a {' or '.join(schemes)} URL with a host and an optional port up to 65535")
        if re.search(r"\s", text):  # urlsplit silently drops tabs and line breaks.
            raise ValueError("contains a space or a line break")
        return urlunsplit((parts.scheme, host if port is None else f"{host}:{port}", parts.path, "", ""))

    return read


def alert_url(given: object) -> SecretStr:
    """Parse the address that alarms go to; all of it is a secret, since most kinds contain a token."""
    text = (given.get_secret_value() if isinstance(given, SecretStr) else str(given)).strip()
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[!-~]{1,2000}", text):
        raise ValueError("is not an address with a scheme, such as https:// or mailtos://, and without spaces")
    return SecretStr(text)


def _host(host: str) -> str:
    """Normalize a host as it appears in a URL, so that TLS and HTTP see it as a certificate spells it.

    Names are in ASCII without a trailing dot. Raises ValueError if it is neither a name nor an address.
    """
    if ":" in host:
        return f"[{ip_address(host)}]"
    name = host.encode("idna").decode().lower().removesuffix(".")
    if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", name):
        raise ValueError("not a host name")
    return name


def matching(pattern: str, what: str) -> Callable[[object], str]:
    """Return a reader of texts that match a pattern, described by `what`; it does not repeat the text."""

    def read(given: object) -> str:
        text = str(given).strip()
        if not re.fullmatch(pattern, text):
            raise ValueError(f"is not {what}")
        return text

    return read


def data_folder(given: object) -> Path:
    """Parse an absolute path of a folder that may not exist yet; it is passed to processes that run elsewhere."""
    path = _path(given)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is not a folder")
    return path


def existing_file(given: object) -> Path:
    """Parse an absolute path of an existing file."""
    path = _path(given)
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    return path


def _path(given: object) -> Path:
    try:
        return Path(str(given)).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"{given} begins with an unknown home folder; write the full path") from error
    except FileNotFoundError as error:
        raise ValueError(
            f"{given} is relative to the working folder, which no longer exists; write the full path"
        ) from error


def _told(read: Callable[[Given], Value], given: Given) -> Value:
    try:
        return read(given)
    except SettingsError as error:
        raise ValueError(str(error)) from error
