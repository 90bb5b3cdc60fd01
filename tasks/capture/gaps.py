"""In which stretches of time could a symbol not be heard, and why?"""

import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tasks.ledger import Gap
from tasks.manifest import encode, read
from tasks.sessions import SavedGaps
from tasks.spans import Spans, subtract, union
from tasks.store import write_whole

# The end of what lasts.
_EVER_NS = 1 << 62


class GapBook:
    """The gaps of one session, those that last included. Safe to use from any thread.

    Each change is on disk before the call returns, so that a killed recorder's gaps are known.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._gaps: list[Gap] = list(read(path, SavedGaps).gaps) if path.exists() else []

    def open(self, symbols: Iterable[str], start_ns: int, reason: str) -> None:
        """These symbols cannot be heard from `start_ns` on; those already in a gap stay in theirs.

        Gaps of one symbol do not overlap: what earlier ones have of that time stays theirs.
        """
        with self._lock:
            unheard = {symbol for gap in self._gaps if gap.end_ns is None for symbol in gap.symbols}
            new = tuple(symbol for symbol in symbols if symbol not in unheard)
            alike: dict[Spans, list[str]] = {}
            for symbol in new:
                alike.setdefault(self._not_yet_lost(symbol, start_ns), []).append(symbol)
            for spans, some in sorted(alike.items()):
                for from_ns, to_ns in spans:
                    end_ns = None if to_ns == _EVER_NS else to_ns
                    self._gaps.append(Gap(symbols=tuple(some), start_ns=from_ns, end_ns=end_ns, reason=reason))
            if new:
                self._save()

    def close(self, symbols: Iterable[str], end_ns: int) -> None:
        """These symbols can be heard again from `end_ns` on."""
        with self._lock:
            heard = set(symbols)
            changed: list[Gap] = []
            for gap in self._gaps:
                back = tuple(symbol for symbol in gap.symbols if symbol in heard)
                if gap.end_ns is not None or not back:
                    changed.append(gap)
                    continue
                changed.append(replace(gap, symbols=back, end_ns=max(gap.start_ns, end_ns)))
                still = tuple(symbol for symbol in gap.symbols if symbol not in heard)
                if still:
                    changed.append(replace(gap, symbols=still))
            if changed != self._gaps:
                self._gaps = changed
                self._save()

    def finish(self, end_ns: int) -> None:
        """The session is over: gaps that last end here."""
        self.close({symbol for gap in self.all() if gap.end_ns is None for symbol in gap.symbols}, end_ns)

    def all(self) -> tuple[Gap, ...]:
        """Every gap, in order of opening; `end_ns` is None while it lasts."""
        with self._lock:
            return tuple(self._gaps)

    def touching(self, start_ns: int, end_ns: int) -> tuple[Gap, ...]:
        """The gaps that overlap that stretch of time."""
        return tuple(
            gap for gap in self.all() if gap.start_ns <= end_ns and (gap.end_ns is None or gap.end_ns >= start_ns)
        )

    def _not_yet_lost(self, symbol: str, start_ns: int) -> Spans:
        """The time from `start_ns` on that no gap of the symbol has."""
        ended = (
            (gap.start_ns, gap.end_ns)
            for gap in self._gaps
            if gap.end_ns is not None and gap.end_ns > start_ns and symbol in gap.symbols
        )
        return subtract(((start_ns, _EVER_NS),), union(ended))

    def _save(self) -> None:
        write_whole(self._path, encode(SavedGaps(tuple(self._gaps))))
