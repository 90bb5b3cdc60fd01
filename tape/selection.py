"""What a reader of the archive selects: days and symbols, with the batches and records that hold them."""

import datetime as dt
import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pyarrow.compute as pc

from tape import report
from tasks.errors import TerminalError
from tasks.query.bars import Bars, Wanted, bars
from tasks.query.day_view import records_touching
from tasks.query.sources import sources_of
from tasks.records.ledger import SessionRecord
from tasks.records.manifest import Manifest, read
from tasks.records.market_session import MarketSessions
from tasks.records.names import BatchName, feed_and_date
from tasks.records.trade import NS_PER_S
from tasks.storage.store import Store
from tasks.zones import day_span

if TYPE_CHECKING:
    from tasks.upload.bucket import Bucket

# Prints of a day that arrive after midnight are in the next day's first batch.
_LATEST_NS = 300 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Selection:
    """The archived batches of some days (YYYY-MM-DD), all if there are none, in `store`."""

    store: Store
    days: tuple[str, ...]
    manifests: tuple[Path, ...]

    @property
    def first(self) -> str:
        return self.days[0] if self.days else ""

    @property
    def last(self) -> str:
        return self.days[-1] if self.days else ""

    @property
    def title(self) -> str:
        """How an error or a heading names the days."""
        if not self.days:
            return "any day"
        return self.first if len(self.days) == 1 else f"{self.first}..{self.last}"

    def symbols(self) -> set[str]:
        """Return the symbols that have a trade on these days."""
        return {symbol for path in self.manifests for symbol in read(path, Manifest).report.per_symbol}

    def check_symbols(self, symbols: Iterable[str], seen: Collection[str]) -> None:
        """Raise TerminalError if one of these symbols has no trade on these days, with what is near.

        `seen` had trades for sure: manifests are read only for others.
        """
        unseen = [symbol for symbol in symbols if symbol not in seen]
        known = self.symbols() if unseen else set()
        for symbol in unseen:
            if symbol not in known:
                raise TerminalError(f"{symbol}: no trade of {self.title} is archived; {near(symbol, known, self)}")

    def records(self) -> list[SessionRecord] | None:
        """Return the records of the sessions that touch these days, or None if one of them is not here."""
        found = records_touching(self.store, self.first, self.last)
        known = {record.session for record in found}
        if any(BatchName.parse(path.name).session not in known for path in self.manifests):
            return None
        return found


def near(symbol: str, known: Iterable[str], selection: Selection) -> str:
    """Return what was probably meant, or where the symbols are listed."""
    where = f"`tape show {selection.last}`" if selection.days else "`tape show DATE`"
    return report.did_you_mean(symbol, known) or f"{where} lists a day's symbols"


def local(store: Store, days: tuple[str, ...]) -> Selection:
    """Return what is archived here of these days, or of all."""
    wanted = set(days)
    found = (path for path in store.manifests() if not wanted or feed_and_date(path.parent)[1] in wanted)
    return Selection(store, days, tuple(found))


def mirrored(
    store: Store, bucket: "Bucket", days: tuple[str, ...], symbols: Collection[str], now_ns: Callable[[], int]
) -> Selection:
    """Bring what the bucket has of these days, or of all, into a cache in the data folder, and return it.

    With symbols, only the batches that have one of them.
    """
    from tasks.upload.mirror import mirror

    place = hashlib.sha256(msgspec.json.encode([bucket.endpoint_url, bucket.name, bucket.prefix])).hexdigest()[:16]
    cache = Store(store.root / "cache" / place)

    def wanted(day: str, manifest: Manifest | None) -> bool:
        here = manifest is None or not symbols or any(symbol in manifest.report.per_symbol for symbol in symbols)
        return (not days or day in days) and here

    return Selection(cache, days, tuple(mirror(cache, bucket, wanted, now_ns)))


def bars_of(selection: Selection, wanted: Wanted, calendar: str) -> Bars:
    """Return bars of a selection. Raises TerminalError for a symbol that has no trade."""
    late = _first_after(selection, wanted.zone)
    sources = sources_of(selection.store, [*selection.manifests, *late], wanted.symbols)
    found = bars(sources, wanted, sessions_of(calendar), selection.records())
    traded = found.table.filter(pc.greater(found.table["trades"], 0))
    selection.check_symbols(wanted.symbols, set(traded["symbol"].to_pylist()))
    return found


def _first_after(selection: Selection, zone: str) -> list[Path]:
    """Return the next day's first batches, where they are here."""
    after = (dt.date.fromisoformat(selection.last) + dt.timedelta(days=1)).isoformat()
    until_ns = max(day_span(selection.last, each)[1] for each in (zone, "UTC")) + _LATEST_NS
    found = []
    for path in selection.store.manifests(date=after):
        manifest = read(path, Manifest)
        is_here = manifest.file is not None and path.with_name(manifest.file).exists()
        if is_here and manifest.seal.opened_ns < until_ns:
            found.append(path)
    return found


def sessions_of(calendar: str) -> MarketSessions:
    """Return the market sessions of an exchange, by time."""
    from tasks.market.hours import market_sessions

    return partial(market_sessions, calendar=calendar)


def unique(symbols: Sequence[str] | Collection[str]) -> tuple[str, ...]:
    """Return symbols without repetitions, in order."""
    return tuple(dict.fromkeys(symbols))
