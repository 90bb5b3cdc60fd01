"""Where does a batch stand, and what do its records say?"""

from dataclasses import dataclass
from pathlib import Path

from tasks.errors import TerminalError
from tasks.records.manifest import Manifest, Receipt, Report, Seal, read
from tasks.records.names import BatchName, is_session_name
from tasks.storage.store import Store


@dataclass(frozen=True, slots=True)
class Standing:
    """A batch at the farthest stage it has reached; `record` is the file of that stage that says so.

    Sealed, it has a seal; validated, a report too; archived, a manifest, and once uploaded a receipt.
    """

    name: BatchName
    record: Path
    seal: Seal
    report: Report | None = None
    manifest: Manifest | None = None
    receipt: Receipt | None = None


def standing(store: Store, name: BatchName) -> Standing:
    """Where that batch stands. Raises CorruptionError for a record that cannot be read, TerminalError where none is."""
    # A batch that moves on between two looks is met at its new place by a later round.
    for _ in range(3):
        try:
            return _found(store, name)
        except FileNotFoundError:
            continue
    raise TerminalError(f"{name}: has files but neither seal nor manifest; restore them from a copy")


def _found(store: Store, name: BatchName) -> Standing:
    manifest_path = store.manifest_of(name)
    if manifest_path is not None:
        manifest = read(manifest_path, Manifest)
        receipt_path = manifest_path.with_name(name.receipt)
        receipt = read(receipt_path, Receipt) if receipt_path.exists() else None
        return Standing(name, manifest_path, manifest.seal, manifest.report, manifest, receipt)
    report_path = store.validated / name.report
    if report_path.exists():
        return Standing(name, report_path, read(store.validated / name.seal, Seal), read(report_path, Report))
    seal_path = store.sealed / name.seal
    return Standing(name, seal_path, read(seal_path, Seal))


def batches_of(store: Store, session: str = "*") -> dict[str, list[BatchName]]:
    """The batches of which there is any file, by session, in order; of all sessions, or of one.

    What a recovery cut off makes no batch: where nothing before the cut could be trusted, the cut is all there is.
    """
    folders = [store.sealed, store.validated, store.quarantine, *store.archive.glob("feed=*/date=*")]
    forms = (f"{session}-*", f"_{session}-*")
    names = {_name(path) for folder in folders for form in forms for path in folder.glob(form)} - {None}
    found: dict[str, list[BatchName]] = {}
    for name in sorted(name for name in names if name is not None):
        found.setdefault(name.session, []).append(name)
    return found


def sessions_of(store: Store) -> list[str]:
    """Every session of which there is a folder or a batch, oldest first."""
    folders = [*store.sessions.glob("*"), *store.spool.glob("*")]
    named = {path.name for path in folders if path.is_dir() and is_session_name(path.name)}
    return sorted(named | batches_of(store).keys())


def _name(path: Path) -> BatchName | None:
    if path.suffix == ".cut":
        return None
    try:
        return BatchName.parse(path.name)
    except ValueError:
        return None
