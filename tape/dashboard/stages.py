"""The batches of a running session: which stage each has reached, and why rows went to quarantine.

Folders are listed only after they have changed, and a record is read once for each stage of its batch.
"""

import datetime as dt
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tape.dashboard.model import BatchShown, Stage
from tasks.archive.batch_facts import BatchFacts, reasons_of
from tasks.archive.catalog import Catalog
from tasks.archive.day_listing import files_in
from tasks.errors import RecorderError
from tasks.records.names import BatchName, batches_in
from tasks.records.trade import NS_PER_S
from tasks.storage.store import Store

# A change right after a listing may leave the folder's time as it is: the clock of a file system is coarse.
_LIST_AGAIN_NS = 3 * NS_PER_S
_ENDS = (".seal.json", ".report.json", ".manifest.json", ".receipt.json")


class Stages:
    """The batches of one session beyond the spool."""

    def __init__(self, store: Store, session: str) -> None:
        self.quarantine: dict[str, int] = {}
        self.problem: str | None = None
        self._store, self._session = store, session
        self._facts: dict[BatchName, BatchFacts] = {}
        self._records: dict[BatchName, frozenset[str]] = {}
        self._states: dict[Path, int] = {}
        self._first_folder = f"date={dt.date.fromisoformat(session[:8]) - dt.timedelta(days=1)}"
        self._changed_ns = 0

    def look(self, now_ns: int) -> None:
        """List the folders if one has changed, and read the records that are new."""
        states = {folder: _changed_ns(folder) for folder in self._folders()}
        if states != self._states:
            self._states, self._changed_ns = states, now_ns
        if now_ns - self._changed_ns > _LIST_AGAIN_NS:
            return
        found: dict[BatchName, frozenset[str]] = {}
        for folder in states:
            files = [each.name for each in files_in(folder) if each.name.lstrip("_").startswith(self._session)]
            for file in files:
                end = next((end for end in _ENDS if file.endswith(end)), None)
                if end and batches_in([file]):
                    name = BatchName.parse(file)
                    found[name] = found.get(name, frozenset()) | {end}
        changed = [name for name, ends in found.items() if self._records.get(name) != ends]
        for name in changed:
            self._read(name, found[name])
        if changed:
            self.quarantine = reasons_of(self._facts.values())

    def names(self) -> set[BatchName]:
        """Return the batches that are known."""
        return set(self._facts)

    def rows(self, name: BatchName) -> int:
        """Return how many rows the journal of a known batch has."""
        return self._facts[name].trades.journalled

    def shown(self, being_recorded: dict[BatchName, int]) -> tuple[BatchShown, ...]:
        """Return every batch with its stage, in order, those in the spool with their rows so far."""
        known = {name: batch_shown(name, facts) for name, facts in self._facts.items()}
        open_ones = {
            name: BatchShown(name=str(name), stage="recording", rows=rows, quarantined=0)
            for name, rows in being_recorded.items()
        }
        return tuple(batch for _, batch in sorted({**open_ones, **known}.items()))

    def _read(self, name: BatchName, ends: frozenset[str]) -> None:
        try:
            self._facts[name], self._records[name] = Catalog(self._store).batch(name).facts, ends
        except (RecorderError, OSError) as error:
            self.problem = str(error)

    def _folders(self) -> Iterable[Path]:
        yield from (self._store.sealed, self._store.validated)
        for feed in files_in(self._store.archive):
            yield Path(feed.path)
            # A session's name begins with its first day in UTC, and no day of an exchange begins a day earlier.
            yield from (Path(day.path) for day in files_in(Path(feed.path)) if day.name >= self._first_folder)


def _changed_ns(folder: Path) -> int:
    with suppress(OSError):
        return folder.stat().st_mtime_ns
    return 0


def batch_shown(name: BatchName, facts: BatchFacts) -> BatchShown:
    """Return a batch beyond the spool with its stage."""
    stage: Stage = "uploaded" if facts.acknowledged else facts.state
    quarantined = facts.trades.quarantined + facts.trades.refused
    return BatchShown(name=str(name), stage=stage, rows=facts.trades.journalled, quarantined=quarantined)
