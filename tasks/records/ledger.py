"""The ledger of a session: whether the counts of every stage agree, from the socket to the archive.

`SessionRecord` is what the capture reports at its end; `Ledger` compares it with the batches' records. Every count is
measured independently: frames when they are cut from the socket and again when they are parsed, rows when they are
written, split, and archived.
"""

from dataclasses import dataclass, field
from typing import Literal

from tasks.feeds.registry import DEFAULT
from tasks.records.names import is_session_name

Outcome = Literal["recording", "complete", "stopped", "failed", "killed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameCounts:
    """Messages by kind. `received` is counted at the socket, the others by the parser.

    Fragments of one message count as one frame; WebSocket pings, pongs, and closes count as control frames.
    """

    received: int = 0
    trade: int = 0
    control: int = 0
    rejected: int = 0

    def __add__(self, other: "FrameCounts") -> "FrameCounts":
        return FrameCounts(
            received=self.received + other.received,
            trade=self.trade + other.trade,
            control=self.control + other.control,
            rejected=self.rejected + other.rejected,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """An interval (UTC ns) in which these symbols could not be received. `end_ns` is None while it is open."""

    symbols: tuple[str, ...]
    start_ns: int
    end_ns: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolChange:
    """A symbol that was added to or removed from the watch list of a running session."""

    at_ns: int
    symbol: str
    action: Literal["added", "removed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one run requests from a recorder: these symbols, from `start_ns` to `until_ns` (UTC ns).

    `owner` names the run for people, `process` identifies its process. `start_ns` is when the recording was due, which
    may be before its session began: the time in between was requested but not recorded. `hours` are the intervals (UTC
    ns) in that time in which the symbols' exchange trades. `changes` were made to `symbols` since; `withdrawn_ns` is
    when the run was canceled.
    """

    id: str
    owner: str
    symbols: tuple[str, ...]
    start_ns: int
    until_ns: int
    hours: tuple[tuple[int, int], ...] = ()
    changes: tuple[SymbolChange, ...] = ()
    withdrawn_ns: int | None = None
    process: str = ""
    feed: str = DEFAULT

    @property
    def end_ns(self) -> int:
        """When it ends (UTC ns): at `until_ns`, or earlier if it was withdrawn."""
        return self.until_ns if self.withdrawn_ns is None else min(self.until_ns, self.withdrawn_ns)

    @property
    def current(self) -> tuple[str, ...]:
        """The symbols requested now, after all changes."""
        wanted = dict.fromkeys(self.symbols)
        for change in self.changes:
            wanted.pop(change.symbol, None)
            if change.action == "added":
                wanted[change.symbol] = None
        return tuple(wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """The capture's record of an ended session: `sessions/<session>/session.json`.

    `outcome` is complete (it reached its deadline), stopped (it was told to end early), failed (`error` says why), or
    killed (a later start recovered what it had written). `recording` means that it has not ended: then the record is
    assembled from what is known so far and is not a file. `batches` counts the sealed batches of each lane. `symbols`
    has every symbol ever requested; `changes` says which were not requested from start to end. `silences` are intervals
    in which a symbol was silent although its rhythm predicted many trades, because of a halt or because the feed did
    not send it; they end with its next trade, or with the session. `never_heard` has the symbols without any trade;
    `refused` those that the vendor would not send. `frames_lost` were received but not written because writing failed;
    they are inside a gap. `requests` are those that it served, including withdrawn ones; `zone` is the time zone of the
    exchange's days. `vendor_errors` counts the vendor's error messages by text.
    """

    session: str
    feed: str
    symbols: tuple[str, ...]
    started_ns: int
    listening_ns: int | None
    ended_ns: int
    deadline_ns: int
    outcome: Outcome
    error: str | None
    connections: int
    frames_received: int
    batches: tuple[int, ...]
    gaps: tuple[Gap, ...]
    never_heard: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    frames_lost: int = 0
    changes: tuple[SymbolChange, ...] = ()
    silences: tuple[Gap, ...] = ()
    requests: tuple[Request, ...] = ()
    zone: str = "America/New_York"
    vendor_errors: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError if the session's name is not valid for a folder."""
        if not is_session_name(self.session):
            raise ValueError(f"{self.session[:80]!r} is not the name of a session")


@dataclass(frozen=True, slots=True, kw_only=True)
class CoveredTime:
    """How long trades were requested and could be received, in ns; in total and within market hours."""

    asked_ns: int = 0
    received_ns: int = 0
    hours_asked_ns: int = 0
    hours_received_ns: int = 0

    @property
    def share(self) -> float | None:
        """The share of the requested time in which trades could be received; None if none was requested."""
        return self.received_ns / self.asked_ns if self.asked_ns else None

    @property
    def hours_share(self) -> float | None:
        """The same within market hours; None if the requested time has none, or they are unknown."""
        return self.hours_received_ns / self.hours_asked_ns if self.hours_asked_ns else None

    @property
    def judged(self) -> tuple[float | None, str]:
        """The share that a reader wants first, and of what: market hours if they are known."""
        hours = self.hours_share
        return (self.share, "the requested time") if hours is None else (hours, "market hours")


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage(CoveredTime):
    """Requested and received time, added up over the symbols.

    `gaps` cover all requested time that could not be received; gaps of one symbol do not overlap.
    """

    per_symbol: dict[str, CoveredTime] = field(default_factory=dict)
    gaps: tuple[Gap, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TradeCounts:
    """Trades of one session by stage.

    received = journalled + refused; journalled = valid + quarantined; valid = archived. `refused` trades were in a
    readable message but cannot be a row (no symbol, no time, …): they are in quarantine as received. `to_validate`
    (journaled) and `to_archive` (valid) trades wait for the next stage. `odd_conditions` have conditions in an
    unexpected form; they are kept and marked. `resent` trades were delivered before, judging by their order; they are
    kept and marked.
    """

    received: int = 0
    refused: int = 0
    journalled: int = 0
    valid: int = 0
    quarantined: int = 0
    archived: int = 0
    resent: int = 0
    odd_conditions: int = 0
    to_validate: int = 0
    to_archive: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCounts:
    """Batches of one session by progress; each later stage is included in the earlier ones."""

    sealed: int = 0
    validated: int = 0
    archived: int = 0
    uploaded: int = 0

    @property
    def waiting(self) -> int:
        """How many wait to be archived."""
        return self.sealed - self.archived


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """One session's ledger. `per_symbol` counts archived trades by symbol, `reasons` why rows were quarantined.

    If the feed numbers its trades and every batch is validated, `missing_ids` has how many numbers are missing, and how
    many of these are in a named gap. The laws count waiting rows and batches as present: a batch that is not archived
    yet is not lost.
    """

    record: SessionRecord
    frames: FrameCounts
    trades: TradeCounts
    batches: BatchCounts
    upload_expected: bool = False
    per_symbol: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    missing_ids: tuple[int, int] | None = None

    def laws(self) -> list[tuple[str, int, str, int]]:
        """Return every law as (what, count, what it must equal, count)."""
        frames, trades, batches = self.frames, self.trades, self.batches
        read = frames.trade + frames.control + frames.rejected
        laws = [
            (
                "frames at the socket",
                self.record.frames_received,
                "read + lost",
                frames.received + self.record.frames_lost,
            ),
            ("frames read", frames.received, "trade + control + rejected", read),
            ("trades received", trades.received, "journaled + refused", trades.journalled + trades.refused),
            (
                "rows journaled",
                trades.journalled,
                "valid + quarantined" + (" + waiting" if trades.to_validate else ""),
                trades.valid + trades.quarantined + trades.to_validate,
            ),
            (
                "rows valid",
                trades.valid,
                "rows archived" + (" + waiting" if trades.to_archive else ""),
                trades.archived + trades.to_archive,
            ),
            ("rows archived", trades.archived, "sum over symbols", sum(self.per_symbol.values())),
            ("batches sealed", sum(self.record.batches), "batches found", batches.sealed),
            ("gaps that overlap", _overlaps(self.record.gaps), "none", 0),
        ]
        if self.missing_ids is not None:
            missing, named = self.missing_ids
            laws.append(("trade numbers missing", missing, "missing in named gaps", named))
        if self.upload_expected:
            laws.append(("batches archived", batches.archived, "batches uploaded", batches.uploaded))
        return laws

    def imbalances(self) -> list[str]:
        """Return one line for each law that does not hold; empty if the ledger balances."""
        return [f"{left} ({a:,}) ≠ {right} ({b:,})" for left, a, right, b in self.laws() if a != b]

    @property
    def balances(self) -> bool:
        """Whether every law holds."""
        return not self.imbalances()


def _overlaps(gaps: tuple[Gap, ...]) -> int:
    """Count the gaps that begin before an earlier gap of the same symbol has ended."""
    ends: dict[str, float] = {}
    count = 0
    for gap in sorted(gaps, key=lambda gap: gap.start_ns):
        count += any(gap.start_ns < ends.get(symbol, 0) for symbol in gap.symbols)
        end = float("inf") if gap.end_ns is None else gap.end_ns
        ends.update({symbol: max(end, ends.get(symbol, 0)) for symbol in gap.symbols})
    return count
