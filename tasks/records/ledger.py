"""Do the counts of every stage agree, for one session, from the socket to the archive?

`SessionRecord` is what the capture says of itself when it ends; `Ledger` sets it beside what the batches'
own records say. Nothing here is measured twice from the same place: the frames are counted where they are cut
from the socket and again where they are read, the rows where they are written, split and archived.
"""

from dataclasses import dataclass, field
from typing import Literal

from tasks.feeds.registry import DEFAULT
from tasks.records.names import is_session_name

Outcome = Literal["recording", "complete", "stopped", "failed", "killed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameCounts:
    """Messages by kind. `received` is counted at the socket, the others by whoever read the message.

    Fragments of one message count as one frame; WebSocket's own ping, pong and close count as control frames.
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
    """A stretch of time (UTC ns) in which these symbols could not be heard. `end_ns` is None while it lasts."""

    symbols: tuple[str, ...]
    start_ns: int
    end_ns: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolChange:
    """A symbol that was added to, or removed from, the watch-list of a session that was recording; UTC ns."""

    at_ns: int
    symbol: str
    action: Literal["added", "removed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one run wants of a recorder: these symbols, from `start_ns` to `until_ns` (UTC ns).

    `owner` names the run for a person, `process` tells its process from all others. `start_ns` is when the recording
    was due, which may lie before its session began: the time between was asked for and not recorded. `hours` are the
    stretches (UTC ns) in that time in which the symbols' exchange trades. `changes` were made to `symbols` since;
    `withdrawn_ns` is when the run was cancelled.
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
        """When it ends (UTC ns): at its time, or when it was withdrawn before that."""
        return self.until_ns if self.withdrawn_ns is None else min(self.until_ns, self.withdrawn_ns)

    @property
    def current(self) -> tuple[str, ...]:
        """The symbols as they are asked for now, after all changes."""
        wanted = dict.fromkeys(self.symbols)
        for change in self.changes:
            wanted.pop(change.symbol, None)
            if change.action == "added":
                wanted[change.symbol] = None
        return tuple(wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """What the capture says of one session when it has ended: `sessions/<session>/session.json`.

    `outcome` is complete (its deadline came), stopped (it was told to end early), failed (`error` says why) or
    killed (a later start recovered what it had written); recording says that it has not ended: then the record is
    made from what is known so far, and is no file. `batches` counts the sealed batches of each lane.
    `symbols` were asked for at some time, `changes` says when that was not from start to end.
    `silences` are stretches in which a symbol kept silent though its rhythm let expect many trades: a halt, or a feed
    that does not send it; they end when it was heard again, or with the session.
    `never_heard` names the symbols from which no trade came; `refused` those the vendor would not send.
    `frames_lost` were received but not written, because writing failed; they lie within a gap.
    `requests` are those that it served, withdrawn ones included; `zone` is the time zone of the exchange's days.
    `vendor_errors` counts the error messages of the vendor by their text.
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
        """Raises ValueError where a folder could not be called as the session."""
        if not is_session_name(self.session):
            raise ValueError(f"{self.session[:80]!r} is not the name of a session")


@dataclass(frozen=True, slots=True, kw_only=True)
class CoveredTime:
    """How long trades were asked for and could be received, in ns; the same within the hours of the market."""

    asked_ns: int = 0
    received_ns: int = 0
    hours_asked_ns: int = 0
    hours_received_ns: int = 0

    @property
    def share(self) -> float | None:
        """The share of the asked-for time in which trades could be received; None where none was asked for."""
        return self.received_ns / self.asked_ns if self.asked_ns else None

    @property
    def hours_share(self) -> float | None:
        """The same within market hours; None where the asked-for time has none, or they are not known."""
        return self.hours_received_ns / self.hours_asked_ns if self.hours_asked_ns else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage(CoveredTime):
    """What was asked for and what could be received, the times added up over the symbols.

    `gaps` are all that was asked for and could not be received; of one symbol they do not overlap.
    """

    per_symbol: dict[str, CoveredTime] = field(default_factory=dict)
    gaps: tuple[Gap, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TradeCounts:
    """Trades of one session by stage.

    received = journalled + refused; journalled = valid + quarantined; valid = archived. `refused` trades stood
    in a readable message but cannot be a row (no symbol, no time, …): they lie in quarantine as received.
    `to_validate` journalled and `to_archive` valid ones are on their way: they wait for the next stage.
    `odd_conditions` have conditions in a form that the vendor is not known to send: they are kept, and marked.
    `resent` ones were delivered before, by the evidence of their order; they are kept, marked, and counted here.
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
    """Batches of one session by how far they have come; each later stage counts within the earlier ones."""

    sealed: int = 0
    validated: int = 0
    archived: int = 0
    uploaded: int = 0

    @property
    def waiting(self) -> int:
        """Those that wait to be archived."""
        return self.sealed - self.archived


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """One session's account. `per_symbol` counts the archived trades of each symbol, `reasons` why rows did not pass.

    `missing_ids`, where the feed numbers its trades and every batch is validated: how many numbers are missing, and
    how many of them in a named gap. Its laws count what waits for a stage as being on its way: a batch that is not
    archived yet is not lost.
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
        """Every law as (what, count, what it must equal, count)."""
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
            ("trades received", trades.received, "journalled + refused", trades.journalled + trades.refused),
            (
                "rows journalled",
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
        """Every law that does not hold, one line each; empty where the ledger balances."""
        return [f"{left} ({a:,}) ≠ {right} ({b:,})" for left, a, right, b in self.laws() if a != b]

    @property
    def balances(self) -> bool:
        """Whether every law holds."""
        return not self.imbalances()


def _overlaps(gaps: tuple[Gap, ...]) -> int:
    """How many gaps begin before an earlier one of the same symbol has ended."""
    ends: dict[str, float] = {}
    count = 0
    for gap in sorted(gaps, key=lambda gap: gap.start_ns):
        count += any(gap.start_ns < ends.get(symbol, 0) for symbol in gap.symbols)
        end = float("inf") if gap.end_ns is None else gap.end_ns
        ends.update({symbol: max(end, ends.get(symbol, 0)) for symbol in gap.symbols})
    return count
