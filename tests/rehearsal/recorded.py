"""What is true of a rehearsal: what recorders and runs left in the data folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.archive.catalog import Catalog
from tasks.records.coverage import notable
from tasks.records.gaps import read_gaps
from tasks.records.ledger import Gap, Request
from tasks.records.requests import is_running, requests_of
from tasks.records.sessions import GAPS_FILE, is_recording
from tasks.records.status import Status, read_status
from tasks.storage.store import Store


@dataclass(frozen=True)
class Recorded:
    """The data folder, read as it is at each call."""

    store: Store

    def status(self) -> Status | None:
        """The status of the newest session, as its recorder wrote it; None before the first."""
        folders = sorted(self.store.sessions.glob("*/status.json"))
        return read_status(folders[-1].parent) if folders else None

    def folders(self) -> list[Path]:
        """The sessions' folders, the oldest first."""
        return sorted(self.store.sessions.glob("*"))

    def requests(self) -> list[Request]:
        """All requests of runs, the oldest first."""
        return sorted((each for folder in self.folders() for each in requests_of(folder)), key=lambda each: each.id)

    def watching(self) -> list[Request]:
        """The requests whose run is executed by a process that is there."""
        return [each for each in self.requests() if is_running(each.process)]

    def is_watched_by_another_than(self, request: Request) -> bool:
        """Whether the run of another request watches over the recording."""
        return any(each.id != request.id for each in self.watching())

    def gaps(self) -> list[Gap]:
        """The gaps of all sessions so far, without those of a handshake."""
        found = [gap for folder in self.folders() for gap in read_gaps(folder / GAPS_FILE)[0].all]
        return list(notable(found))

    def open_gaps(self) -> Sequence[Gap]:
        """The gaps that last."""
        status = self.status()
        return () if status is None else status.open_gaps

    def trades(self) -> int:
        """How many trades are journaled."""
        status = self.status()
        return 0 if status is None else status.trades

    def is_recording(self) -> bool:
        """Whether a recorder holds a session's lock."""
        return any(is_recording(folder) for folder in self.folders())

    def is_recorded_by_another_than(self, pid: int) -> bool:
        """Whether another process records now."""
        status = self.status()
        return status is not None and status.pid != pid and status.state == "recording"

    def sealed(self) -> int:
        """How many batches the newest session has sealed."""
        status = self.status()
        return 0 if status is None else status.batches_sealed

    def archived(self) -> int:
        """How many batches are archived."""
        return len(self.store.manifests())

    def waiting_for_upload(self) -> int:
        """How many archived batches the bucket has not acknowledged."""
        catalog = Catalog(self.store)
        batches = [catalog.batch(name) for names in catalog.names().values() for name in names]
        return sum(each.facts.state == "archived" and each.receipt is None for each in batches)

    def days(self) -> list[Path]:
        """The files of closed days."""
        return list(self.store.days.glob("*/*/*.parquet"))
