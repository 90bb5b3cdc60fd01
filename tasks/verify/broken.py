"""How is a law that does not hold said, and how are files hashed to find out?"""

from dataclasses import dataclass
from pathlib import Path

from tasks.storage import store


@dataclass(frozen=True, slots=True)
class Broken:
    """A law that does not hold: which, in which file, and what is to be seen there."""

    law: str
    file: str
    message: str


def broken(law: str, file: Path, message: str) -> Broken:
    """That law, broken in that file."""
    return Broken(law, str(file), message)


def sha256_of(path: Path) -> str | None:
    """The file's SHA-256 (hex), None where there is no file."""
    try:
        return store.sha256_of(path)
    except FileNotFoundError:
        return None
