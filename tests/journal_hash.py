"""Hashes the journal that an archived file and its quarantined lines hold together."""

import hashlib
from collections.abc import Collection
from pathlib import Path

from tasks.archive.journal_text import journal_bytes


def journal_sha256(archived: Path | None, quarantined: Path | None, extra: Collection[str] = ()) -> str:
    """Return the SHA-256 (hex) of the rebuilt journal; must equal `Seal.sha256`."""
    digest = hashlib.sha256()
    for piece in journal_bytes(archived, quarantined, extra):
        digest.update(piece)
    return digest.hexdigest()
