"""Describes broken laws, and hashes files to check them."""

from dataclasses import dataclass
from pathlib import Path

from tasks.storage import store


@dataclass(frozen=True, slots=True)
class Broken:
    """A broken law: its name, the file, and what is wrong there."""

    law: str
    file: str
    message: str


def broken(law: str, file: Path, message: str) -> Broken:
    """Return a law as broken in a file."""
    return Broken(law, str(file), message)


def sha256_of(path: Path) -> str | None:
    """Return the file's SHA-256 (hex), or None if there is no file."""
    try:
        return store.sha256_of(path)
    except FileNotFoundError:
        return None
