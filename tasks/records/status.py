"""How does a session stand right now? `sessions/<session>/status.json`, replaced whole several times a second."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tasks.records.ledger import Gap
from tasks.records.manifest import encode, read
from tasks.storage.store import begun

STATUS_FILE = "status.json"
_BOOT = Path("/proc/sys/kernel/random/boot_id")

State = Literal["starting", "connecting", "recording", "reconnecting", "draining", "ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A session at `updated_ns`. Times are UTC ns; `through_ns` is how far everything heard is journalled.

    Of that, what came before `durable_ns` is on the disk; the rest survives the recorder, but not the machine, which
    is in its run `boot`.

    `per_symbol` counts trades of every symbol asked for so far, `symbols` are those asked for now.
    `settled` are the requests that have ended and of which every trade is in a sealed batch.
    `vendor_errors` counts the vendor's error messages by their text.
    `gaps` counts the ended ones; `open_gaps` are those that last. `queue_bytes` waits between socket and journal.
    """

    session: str
    pid: int
    state: State
    started_ns: int
    deadline_ns: int
    updated_ns: int
    listening_ns: int | None = None
    through_ns: int = 0
    durable_ns: int = 0
    boot: str = ""
    connection: int = 0
    frames: int = 0
    trades: int = 0
    queue_bytes: int = 0
    queue_limit_bytes: int = 0
    blocked_s: float = 0.0
    batches_sealed: int = 0
    gaps: int = 0
    open_gaps: tuple[Gap, ...] = ()
    refused_symbols: tuple[str, ...] = ()
    notice: str | None = None
    error: str | None = None
    per_symbol: dict[str, int] = field(default_factory=dict)
    symbols: tuple[str, ...] = ()
    settled: tuple[str, ...] = ()
    vendor_errors: dict[str, int] = field(default_factory=dict)


def boot_id() -> str:
    """What tells this run of the machine from others; empty where the system does not say."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def write_status(folder: Path, status: Status) -> None:
    """Replace the status in a session's folder; not synced, since only the living read it."""
    path = folder / STATUS_FILE
    temporary = begun(path)
    temporary.write_bytes(encode(status))
    temporary.replace(path)


def read_status(folder: Path) -> Status | None:
    """The status in a session's folder, or None before the first."""
    try:
        return read(folder / STATUS_FILE, Status)
    except FileNotFoundError:
        return None
