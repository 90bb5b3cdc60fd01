"""The gaps of a session: intervals in which symbols could not be received, kept so that a kill loses none.

They are kept as the changes that made them, one line each in an append-only file: a feed that drops the connection a
thousand times an hour costs a thousand lines, not a thousand rewrites of the whole list. Each line ends in its CRC-32.
Anything after the last whole line was cut off by a kill and counts as not written.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from tasks.records.checked_line import checked_line, text_of
from tasks.records.ledger import Gap
from tasks.records.manifest import read
from tasks.spans import Spans, subtract, union

# The end of an open gap.
_EVER_NS = 1 << 62
# The format of earlier versions: all gaps, rewritten at each change.
_BEFORE = "gaps.json"


class Change(msgspec.Struct, frozen=True, array_like=True):
    """One line: from `at_ns` (UTC ns) on these symbols cannot be received, or, without a reason, can be again.

    With `until_ns` they could not be received from `at_ns` until then, whatever came after.
    """

    symbols: tuple[str, ...]
    at_ns: int
    reason: str | None = None
    until_ns: int | None = None


@dataclass(frozen=True, slots=True)
class SavedGaps:
    """The gaps of a session in the format of earlier versions."""

    gaps: tuple[Gap, ...]


@dataclass(slots=True)
class Gaps:
    """The gaps of one session in order of opening; an open gap has no end. Gaps of one symbol do not overlap."""

    all: list[Gap] = field(default_factory=list)

    def apply(self, change: Change) -> bool:
        """Apply a change; return whether anything is different now."""
        if change.reason is None:
            return self._close(set(change.symbols), change.at_ns)
        if change.until_ns is not None:
            return self._add(change.symbols, change.at_ns, change.until_ns, change.reason)
        return self._open(change.symbols, change.at_ns, change.reason)

    def _open(self, symbols: Iterable[str], start_ns: int, reason: str) -> bool:
        """Open a gap for symbols that are in none; time already covered by earlier gaps stays theirs."""
        unheard = {symbol for gap in self.all if gap.end_ns is None for symbol in gap.symbols}
        later = [gap for gap in self.all if gap.end_ns is not None and gap.end_ns > start_ns]
        new = [symbol for symbol in symbols if symbol not in unheard]
        alike: dict[Spans, list[str]] = {}
        for symbol in new:
            lost = ((gap.start_ns, gap.end_ns) for gap in later if gap.end_ns is not None and symbol in gap.symbols)
            alike.setdefault(subtract(((start_ns, _EVER_NS),), union(lost)), []).append(symbol)
        for spans, some in sorted(alike.items()):
            for from_ns, to_ns in spans:
                end_ns = None if to_ns == _EVER_NS else to_ns
                self.all.append(Gap(symbols=tuple(some), start_ns=from_ns, end_ns=end_ns, reason=reason))
        return bool(new)

    def _add(self, symbols: Iterable[str], start_ns: int, end_ns: int, reason: str) -> bool:
        """What other gaps have of that time, those that last included, stays theirs."""
        added = list[Gap]()
        for symbol in symbols:
            lost = (
                (gap.start_ns, _EVER_NS if gap.end_ns is None else gap.end_ns)
                for gap in self.all
                if symbol in gap.symbols
            )
            for from_ns, to_ns in subtract(((start_ns, end_ns),), union(lost)):
                added.append(Gap(symbols=(symbol,), start_ns=from_ns, end_ns=to_ns, reason=reason))
        self.all += added
        return bool(added)

    def _close(self, heard: set[str], end_ns: int) -> bool:
        changed: list[Gap] = []
        for gap in self.all:
            back = tuple(symbol for symbol in gap.symbols if symbol in heard) if gap.end_ns is None else ()
            if not back:
                changed.append(gap)
                continue
            changed.append(replace(gap, symbols=back, end_ns=max(gap.start_ns, end_ns)))
            still = tuple(symbol for symbol in gap.symbols if symbol not in heard)
            if still:
                changed.append(replace(gap, symbols=still))
        is_new = len(changed) != len(self.all) or changed != self.all
        self.all = changed
        return is_new


def line_of(change: Change) -> bytes:
    """Return a change as a line of the file."""
    fields = msgspec.structs.astuple(change)
    return checked_line(msgspec.json.encode(fields[:3] if change.until_ns is None else fields))


def read_gaps(path: Path) -> tuple[Gaps, int]:
    """Read the gaps from a file; also return how many of its bytes are whole lines. A missing file has none."""
    before = path.with_name(_BEFORE)
    gaps = Gaps(list(read(before, SavedGaps).gaps) if before.exists() else [])
    whole = 0
    for change, size in _changes(path.read_bytes() if path.exists() else b""):
        gaps.apply(change)
        whole += size
    return gaps, whole


def _changes(content: bytes) -> Iterator[tuple[Change, int]]:
    for line in content.split(b"\n")[:-1]:
        text = text_of(line)
        if text is None:
            return
        try:
            yield msgspec.json.decode(text, type=Change), len(line) + 1
        except msgspec.MsgspecError:
            return


def overlaps(gap: Gap, start_ns: int, end_ns: int) -> bool:
    """Return whether the gap overlaps the interval from `start_ns` to `end_ns` (UTC ns)."""
    return gap.start_ns < end_ns and (gap.end_ns is None or gap.end_ns > start_ns)
