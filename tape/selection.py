"""What a reader of the archive selects, here or in the bucket: days, symbols, and a feed."""

import datetime as dt
import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import pyarrow.compute as pc

from flows.settings import Settings
from flows.surroundings import check_tls
from tape import report
from tasks.errors import SettingsError, TerminalError
from tasks.query.bars import Bars, Wanted, bars
from tasks.query.day_view import records_touching
from tasks.query.sources import sources_of
from tasks.records.ledger import SessionRecord
from tasks.records.manifest import Manifest, read
from tasks.records.market_session import MarketSessions
from tasks.records.names import BatchName, feed_and_date
from tasks.records.trade import NS_PER_S
from tasks.storage.store import Store
from tasks.upload.bucket import Bucket
from tasks.zones import day_span

# Prints of a day that arrive after midnight are in the next day's first batch.
_LATEST_NS = 300 * NS_PER_S
# From the bucket, a session that started this many days before and has no batch of the wanted days is not looked at.
_LONGEST_DAYS = 2


@dataclass(frozen=True, slots=True)
class Selection:
    """The archived batches of some days (YYYY-MM-DD), all if there are none, and of one feed or all, in `store`."""

    store: Store
    days: tuple[str, ...]
    manifests: tuple[Path, ...]
    feed: str | None = None

    @property
    def first(self) -> str:
        return self.days[0] if self.days else ""

    @property
    def last(self) -> str:
        return self.days[-1] if self.days else ""

    @property
    def title(self) -> str:
        """How an error or a heading names the days and the feed."""
        days = self.first if self.first == self.last else f"{self.first}..{self.last}"
        return (days or "any day") + (f" from {self.feed}" if self.feed else "")

    def symbols(self) -> set[str]:
        """Return the symbols that have a trade on these days, also those that were not asked of the bucket."""
        found = _of(self.store.manifests(), self.days, self.feed)
        return {symbol for path in found for symbol in read(path, Manifest).report.per_symbol}

    def check_symbols(self, symbols: Iterable[str], seen: Collection[str]) -> None:
        """Raise TerminalError if one of these symbols has no trade on these days, with what is near.

        `seen` had trades for sure: manifests are read only for others.
        """
        unseen = [symbol for symbol in symbols if symbol not in seen]
        known = self.symbols() if unseen else set()
        for symbol in unseen:
            if symbol not in known:
                raise TerminalError(f"{symbol}: no trade of {self.title} is archived; {near(symbol, known, self)}")

    def check_one_feed(self, symbols: Iterable[str]) -> None:
        """Raise SettingsError if trades of one of these symbols came from several feeds: they must not be mixed."""
        if len({_feed(path) for path in self.manifests}) < 2:
            return
        feeds: dict[str, set[str]] = {symbol: set() for symbol in symbols}
        for path in self.manifests:
            of_batch = read(path, Manifest).report.per_symbol
            for symbol in feeds.keys() & of_batch.keys():
                feeds[symbol].add(_feed(path))
        for symbol, found in feeds.items():
            if len(found) > 1:
                raise SettingsError(f"{symbol}: recorded from {' and '.join(sorted(found))}; name one (--feed)")

    def records(self) -> list[SessionRecord] | None:
        """Return the records of the sessions that touch these days, or None if one of them is not here."""
        found = records_touching(self.store, self.first, self.last, self.feed)
        known = {record.session for record in found}
        if any(BatchName.parse(path.name).session not in known for path in self.manifests):
            return None
        return found


def near(symbol: str, known: Iterable[str], selection: Selection) -> str:
    """Return what was probably meant, or where the symbols are listed."""
    where = f"`tape show {selection.last}`" if selection.days else "`tape show DATE`"
    return report.did_you_mean(symbol, known) or f"{where} lists a day's symbols"


def local(store: Store, days: tuple[str, ...], feed: str | None = None) -> Selection:
    """Return what is archived here of these days, or of all, and of this feed, or of all.

    Raises SettingsError if the feed has nothing there.
    """
    return _chosen(store, days, feed, store.manifests())


def in_bucket(
    data_dir: Path,
    bucket: Bucket,
    days: tuple[str, ...],
    symbols: Collection[str] = (),
    feed: str | None = None,
    zone: str = "",
) -> Selection:
    """Return what the bucket has of these days and feed, or of all; batches without any of the symbols are left out.

    They are downloaded into a cache in the data folder. For bars of days of a `zone`, prints that came after midnight
    are downloaded too. Raises as `local` and as `tasks.upload.restore.restore`.
    """
    after, until_ns = _first_minutes_after(days[-1], zone) if days and zone else ("", 0)

    def wanted(day: str, manifest: Manifest | None) -> bool:
        if manifest is None:
            return not days or day in days or day == after
        if symbols and not any(symbol in manifest.report.per_symbol for symbol in symbols):
            return False
        return (day != after or manifest.seal.opened_ns < until_ns) and feed in (None, manifest.seal.feed)

    cache, manifests = _mirrored(data_dir, bucket, days, wanted)
    return _chosen(cache, days, feed, manifests)


def records_in_bucket(data_dir: Path, bucket: Bucket, days: tuple[str, ...], feed: str | None = None) -> Selection:
    """Return only the records of the sessions that recorded on these days, from the bucket: no batch."""
    cache, _ = _mirrored(data_dir, bucket, days, lambda _day, _manifest: False)
    return Selection(cache, days, (), feed)


def _mirrored(
    data_dir: Path, bucket: Bucket, days: tuple[str, ...], wanted: Callable[[str, Manifest | None], bool]
) -> tuple[Store, list[Path]]:
    """Bring what is wanted into the cache, with the records of all sessions that may touch these days."""
    from tasks.upload.mirror import mirror

    place = hashlib.sha256(msgspec.json.encode([bucket.endpoint_url, bucket.name, bucket.prefix])).hexdigest()[:16]
    cache = Store(data_dir / "cache" / place)

    def may_touch(session: str) -> bool:
        # A session's name begins with its start in UTC.
        started = f"{session[:4]}-{session[4:6]}-{session[6:8]}"
        return not days or _day_near(days[0], -_LONGEST_DAYS) <= started <= _day_near(days[-1], 1)

    return cache, mirror(cache, bucket, wanted, time.time_ns, may_touch)


def _day_near(day: str, count: int) -> str:
    return (dt.date.fromisoformat(day) + dt.timedelta(days=count)).isoformat()


def _chosen(store: Store, days: tuple[str, ...], feed: str | None, manifests: Iterable[Path]) -> Selection:
    of_days = _of(manifests, days)
    found = tuple(_of(of_days, (), feed))
    if feed is not None and not found:
        known = {_feed(path) for path in of_days}
        whose = report.did_you_mean(feed, known) or f"feeds with trades: {', '.join(sorted(known)) or 'none'}"
        raise SettingsError(f"{feed[:40]}: no trade of {Selection(store, days, ()).title} is from this feed; {whose}")
    return Selection(store, days, found, feed)


def _of(manifests: Iterable[Path], days: Collection[str], feed: str | None = None) -> list[Path]:
    """Return the manifests of these days and this feed, or of all."""
    wanted = set(days)
    return [
        path
        for path in manifests
        if (not wanted or feed_and_date(path.parent)[1] in wanted) and feed in (None, _feed(path))
    ]


def _feed(manifest: Path) -> str:
    return feed_and_date(manifest.parent)[0]


def named_bucket(settings: Settings) -> Bucket:
    """Return the bucket of the settings. Raises SettingsError if they name none, or if TLS cannot be used."""
    check_tls()
    from flows.bucket import bucket_of

    bucket = bucket_of(settings)
    if bucket is None:
        raise SettingsError("TAPE_S3_BUCKET: is not set; name the bucket that holds the archive")
    return bucket


def bars_of(selection: Selection, wanted: Wanted, calendar: str) -> Bars:
    """Return bars of a selection.

    Raises TerminalError for a symbol that has no trade, and SettingsError for one with trades of several feeds.
    """
    selection.check_one_feed(wanted.symbols)
    late = _first_after(selection, wanted.zone)
    sources = sources_of(selection.store, [*selection.manifests, *late], wanted.symbols)
    found = bars(sources, wanted, sessions_of(calendar), selection.records())
    traded = found.table.filter(pc.greater(found.table["trades"], 0))
    selection.check_symbols(wanted.symbols, set(traded["symbol"].to_pylist()))
    return found


def _first_after(selection: Selection, zone: str) -> list[Path]:
    """Return the next day's first batches, where they are here."""
    after, until_ns = _first_minutes_after(selection.last, zone)
    found = []
    for path in selection.store.manifests(selection.feed or "*", after):
        manifest = read(path, Manifest)
        is_here = manifest.file is not None and path.with_name(manifest.file).exists()
        if is_here and manifest.seal.opened_ns < until_ns:
            found.append(path)
    return found


def _first_minutes_after(day: str, zone: str) -> tuple[str, int]:
    """Return the next day, and until when (UTC ns) its batches may have prints of this one."""
    return _day_near(day, 1), max(day_span(day, each)[1] for each in (zone, "UTC")) + _LATEST_NS


def sessions_of(calendar: str) -> MarketSessions:
    """Return the market sessions of an exchange, by time."""
    from tasks.market.hours import market_sessions

    return partial(market_sessions, calendar=calendar)


def unique(symbols: Sequence[str] | Collection[str]) -> tuple[str, ...]:
    """Return symbols without repetitions, in order."""
    return tuple(dict.fromkeys(symbols))
