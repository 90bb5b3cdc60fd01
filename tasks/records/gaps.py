"""In which stretches of time could a symbol not be heard, and how is that kept so that a kill loses none of it?

A session's gaps are kept as the changes that made them, one line for each in a file that only grows: a feed that
drops the connection a thousand times an hour costs a thousand lines, not a thousand files of all of them. Each line
ends in its CRC-32; what follows the last whole line was torn by a kill, and had not happened.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from tasks.records.checked_line import checked_line, text_of
from tasks.records.ledger import Gap
from tasks.records.manifest import read
from tasks.spans import Spans, subtract, union

# The end of what lasts.
_EVER_NS = 1 << 62
# What earlier versions kept: all gaps, written anew at each change.
_BEFORE = "gaps.json"


class Change(msgspec.Struct, frozen=True, array_like=True):
    """One line: from `at_ns` (UTC ns) on these symbols cannot be heard, for a reason, or without one can be again."""

    symbols: tuple[str, ...]
    at_ns: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class SavedGaps:
    """The gaps of a session as earlier versions kept them."""

    gaps: tuple[Gap, ...]


@dataclass(slots=True)
class Gaps:
    """The gaps of one session, in order of opening; `end_ns` is None while one lasts. Those of a symbol are apart."""

    all: list[Gap] = field(default_factory=list)

    def apply(self, change: Change) -> bool:
        """Have it happen; gives whether anything is different now."""
        if change.reason is None:
            return self._close(set(change.symbols), change.at_ns)
        return self._open(change.symbols, change.at_ns, change.reason)

    def _open(self, symbols: Iterable[str], start_ns: int, reason: str) -> bool:
        """Those already in a gap stay in theirs, and what earlier gaps have of that time stays theirs."""
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
    """A change as a line of the file."""
    return checked_line(msgspec.json.encode(change))


def read_gaps(path: Path) -> tuple[Gaps, int]:
    """The gaps that a file tells of, and how many of its bytes are whole lines; none where there is no file."""
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
    """Return whether the gap has time in common with the stretch from `start_ns` until `end_ns` (UTC ns)."""
    return gap.start_ns < end_ns and (gap.end_ns is None or gap.end_ns > start_ns)
