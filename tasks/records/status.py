"""The current status of a session, `sessions/<session>/status.json`, replaced twice a second."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tasks.records.ledger import Gap
from tasks.records.manifest import encode, read
from tasks.records.trade import NS_PER_S
from tasks.storage.store import begun

STATUS_FILE = "status.json"
# The recorder replaces its status twice a second; one that is older than this is stuck, or its disk is. Less than 5 s,
# so that whoever looks twice a second knows within 5 s.
STALE_AFTER_NS = 4 * NS_PER_S
_BOOT = Path("/proc/sys/kernel/random/boot_id")

State = Literal["connecting", "recording", "reconnecting", "draining", "ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The status of a session at `updated_ns`. Times are UTC ns.

    Everything received before `through_ns` is in the journal. Of that, everything before `durable_ns` is synced to
    disk; the rest survives a crash of the recorder, but not of the machine. `boot` is the machine's boot ID.

    `per_symbol` counts trades of every symbol requested so far; `symbols` are those requested now. `settled` are ended
    requests of which every trade is in a sealed batch. `vendor_errors` counts the vendor's error messages by text.
    `gaps` counts closed gaps; `open_gaps` are the others. `queue_bytes` wait between socket and journal.
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
    """Return the boot ID of the machine, or an empty string if the system has none."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def write_status(folder: Path, status: Status) -> None:
    """Replace the status in a session's folder; it is not synced, because it matters only while running."""
    path = folder / STATUS_FILE
    temporary = begun(path)
    temporary.write_bytes(encode(status))
    temporary.replace(path)


def read_status(folder: Path) -> Status | None:
    """Read the status in a session's folder, or None before the first one."""
    try:
        return read(folder / STATUS_FILE, Status)
    except FileNotFoundError:
        return None
