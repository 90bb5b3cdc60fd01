"""Reads the records stored beside a manifest or a day's record: its receipt, and why its file was removed."""

from functools import lru_cache
from pathlib import Path

from tasks.errors import CorruptionError, RecorderError, TerminalError
from tasks.records.manifest import Day, Manifest, Place, Receipt, Removed, read
from tasks.records.names import receipt_record, removed_record
from tasks.storage.store import FileState, state_of


def receipt_of(record: Path) -> Receipt | None:
    """Return the receipt of a manifest or a day's record, or None. Raises CorruptionError."""
    path = receipt_record(record)
    return read(path, Receipt) if path.exists() else None


def acknowledged(record: Path, place: Place) -> Receipt | None:
    """Return the local receipt of a record if it is for this bucket and readable, else None."""
    try:
        receipt = receipt_of(record)
    except CorruptionError:
        return None
    return receipt if receipt is not None and receipt.is_of(place) else None


def day_and_manifests(record: Path) -> tuple[Day, dict[str, Manifest]]:
    """Return a day's record, and the manifests of its batches by name.

    Raises FileNotFoundError, and CorruptionError if the record cannot be read.
    """
    return _held(record, state_of(record.stat()))


@lru_cache(maxsize=4)  # Read once for the hundreds of batches of a day.
def _held(record: Path, _state: FileState) -> tuple[Day, dict[str, Manifest]]:
    day = read(record, Day)
    return day, {each.batch: each for each in day.batches}


def removed(record: Path) -> Removed | None:
    """Return why the file of a manifest or a day's record was removed, or None if no record says so.

    Raises CorruptionError.
    """
    path = removed_record(record)
    return read(path, Removed) if path.exists() else None


def missing_rows_error(record: Path, manifest: Manifest) -> RecorderError:
    """Return the error to raise if rows are neither in the batch's own file nor in its day's."""
    why, file = removed(record), record.with_name(str(manifest.file))
    if why is not None:
        return TerminalError(
            f"{file}: was removed here ({why.why}) and is in {', '.join(why.held_in)}; "
            f"`tape restore --date {manifest.seal.date}` brings it back"
        )
    return CorruptionError(
        f"{file}: is missing beside its manifest; `tape restore --date {manifest.seal.date}`, or restore it from a copy"
    )
