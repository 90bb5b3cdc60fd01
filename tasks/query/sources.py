"""The Parquet files that hold the rows of archived batches.

Rows of a closed day are in its merged file, where one symbol takes few bytes to read; others are in their batch files.
"""

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import UNSET

from tasks.archive.day_listing import DayFacts, known_day
from tasks.archive.side_records import day_and_manifests, missing_rows_error
from tasks.feeds.registry import never_closes
from tasks.records.manifest import FORMAT_VERSION, Manifest, read, record_sha256, sha256_said
from tasks.records.names import BatchName, feed_and_date, parquet
from tasks.storage.store import Store, begun, publish

LAYOUT_OF_VIEWS = "A"


@dataclass(frozen=True, slots=True)
class Sources:
    """The files that hold the rows of some batches, all Parquet with the columns of encoding A.

    `batches` are files of one batch each. `days` maps each merged file to the batches wanted from it, none if all are.
    Those in `before_numbers` are of format 1, with prices and sizes as text; of these, those in `before_resent` have a
    column `duplicate` instead of `resent`. `always_open` has feed and symbol of those whose market never closes.
    """

    batches: Sequence[Path] = ()
    days: dict[Path, Sequence[str]] = field(default_factory=dict)
    before_numbers: Collection[Path] = frozenset()
    before_resent: Collection[Path] = frozenset()
    always_open: frozenset[tuple[str, str]] = frozenset()


def sources_of(store: Store, manifests: Iterable[Path], symbols: Collection[str] = ()) -> Sources:
    """Return the files that hold the rows of these manifests, or only those with any of the given symbols.

    A file in another encoding than A is converted into a cache. Raises CorruptionError if a file is missing or cannot
    be read, and TerminalError if it was removed and is only in the bucket.
    """
    batches, days, old = list[Path](), dict[Path, list[str]](), set[Path]()
    texts, always = set[Path](), set[tuple[str, str]]()
    whole, others = _whole_days(store, manifests)
    parts: dict[Path, Sequence[str]] = {}
    for day, facts in whole.items():
        if symbols and facts.symbols.isdisjoint(symbols):
            continue
        feed, _ = feed_and_date(day.parent)
        parts[day] = ()
        always.update((feed, symbol) for symbol in facts.symbols if never_closes(feed, symbol))
        texts |= {day} if facts.version < FORMAT_VERSION else set()
        old |= {day} if facts.before_resent else set()
    for path in others:
        manifest, of_day = _known(store, path)
        if manifest.file is None or not _has_any(manifest, symbols):
            continue
        feed = manifest.seal.feed
        always.update((feed, symbol) for symbol in manifest.report.per_symbol if never_closes(feed, symbol))
        file = path.with_name(manifest.file)
        if of_day is not None:
            days.setdefault(of_day, []).append(manifest.batch)
        elif file.exists():
            batches.append(file if manifest.layout == LAYOUT_OF_VIEWS else _plain(store, file, manifest))
            if manifest.version < FORMAT_VERSION or batches[-1] != file:
                texts.add(batches[-1])
        else:
            raise missing_rows_error(path, manifest)
        if manifest.report.resent is UNSET:
            old.add(of_day or batches[-1])
    for day, wanted in days.items():
        parts[day] = _part_of(store, day, wanted, symbols)
        if day_and_manifests(store.day_record(*feed_and_date(day.parent)))[0].version < FORMAT_VERSION:
            texts.add(day)
    before_resent = frozenset(file for file in old & texts if _is_before_resent(file))
    return Sources(batches, parts, frozenset(texts), before_resent, frozenset(always))


def _whole_days(store: Store, manifests: Iterable[Path]) -> tuple[dict[Path, DayFacts], list[Path]]:
    """Return the day files that hold exactly the batches of some of these manifests, and the other manifests.

    Of each manifest only the last bytes are read, to see whether it is the one in the day's record. A day's manifests
    can be larger than one symbol's trades.
    """
    by_folder: dict[Path, list[Path]] = {}
    for path in manifests:
        by_folder.setdefault(path.parent, []).append(path)
    days, others = dict[Path, DayFacts](), list[Path]()
    for folder, paths in by_folder.items():
        feed, date = feed_and_date(folder)
        facts = known_day(store, feed, date, time.time_ns())
        file = store.day_record(feed, date).with_name(str(facts.file)) if facts is not None else None
        if facts is not None and file is not None and file.exists() and _is_held(facts, paths):
            days[file] = facts
        else:
            others += paths
    return days, others


def _is_held(facts: DayFacts, manifests: Sequence[Path]) -> bool:
    if len(manifests) != len(facts.batches):
        return False
    held = dict(zip(facts.batches, facts.records, strict=True))
    return all(held.get(str(BatchName.parse(path.name))) == sha256_said(path) for path in manifests)


def _has_any(manifest: Manifest, symbols: Collection[str]) -> bool:
    """Whether the batch has any of these symbols; none given means all."""
    return not symbols or any(symbol in manifest.report.per_symbol for symbol in symbols)


def _is_before_resent(file: Path) -> bool:
    """Whether the file has the old column; old archives may have been rewritten since."""
    import pyarrow.parquet as pq

    return "duplicate" in pq.read_schema(file).names


def _known(store: Store, path: Path) -> tuple[Manifest, Path | None]:
    """Return the manifest, and its day file if that exists locally and holds its rows.

    The record of a closed day contains all of its manifests, so only the last bytes of each manifest file are read, to
    see whether it is the same.
    """
    record = store.day_record(*feed_and_date(path.parent))
    if record.exists():
        closed, held = day_and_manifests(record)
        manifest = held.get(str(BatchName.parse(path.name)))
        if manifest is not None and record_sha256(manifest) == sha256_said(path):
            day = record.with_name(str(closed.file))
            return manifest, day if closed.file is not None and day.exists() else None
    return read(path, Manifest), None


def _part_of(store: Store, day: Path, wanted: list[str], symbols: Collection[str]) -> Sequence[str]:
    """Return the wanted batches of a day file, or none if it has no other batch with any of these symbols."""
    _, held = day_and_manifests(store.day_record(*feed_and_date(day.parent)))
    others = (each for name, each in held.items() if name not in wanted)
    return wanted if any(each.rows and _has_any(each, symbols) for each in others) else ()


def _plain(store: Store, file: Path, manifest: Manifest) -> Path:
    """Convert the file to encoding A in the cache, once, and return its path."""
    import pyarrow.parquet as pq

    from tasks.archive.encodings import read_groups
    from tasks.archive.schema import SCHEMA

    place = store.root / "cache" / "plain" / manifest.sha256[:16] / file.parent.parent.name / file.parent.name
    decoded = place / parquet(manifest.batch)
    if not decoded.exists():
        place.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(begun(decoded), SCHEMA, compression="zstd") as writer:
            for table in read_groups(file):
                writer.write_table(table)
        publish(decoded)
    return decoded
