"""Names of sessions, batches, and days, and of everything named after them: files, folders, and object keys.

This is the only module that builds and parses them. Batch names sort in order of recording, contain only
`[A-Za-z0-9-]`, and do not collide across machines: a session's name ends in 32 random bits.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter
from pathlib import Path, PurePath

_SESSION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
_FEED = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_DATE = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
_BATCH = re.compile(rf"({_SESSION.pattern})-(\d{{1,5}})-(\d{{6}})")
# Relative to the archive, or to the folder of days.
DAY_FOLDERS = "feed=*/date=*"
_MANIFEST = ".manifest.json"
MANIFESTS = f"*{_MANIFEST}"
# Appended to the prefix for the keys of merged days.
BY_DAY = "-by-day"
_MANIFEST_KEY = re.compile(r"feed=([^/]*)/date=([^/]*)/_([^/]*)\.manifest\.json")
# In a bucket, a day's record is named after the day's file: `<date>-<digest of its batches>`.
_DAY_KEY = re.compile(r"feed=([^/]+)/date=(\d{4}-\d\d-\d\d)/_(\2-[0-9a-f]+)\.day\.json")


def session_name(started_ns: int, random_bytes: Callable[[int], bytes]) -> str:
    """Return the name of a session that starts at `started_ns` (UTC ns), such as `20261124T143000Z-9f3c01ab`."""
    start = datetime.fromtimestamp(started_ns // 1_000_000_000, UTC)
    return f"{start:%Y%m%dT%H%M%SZ}-{random_bytes(4).hex()}"


def check_day(feed: str, date: str) -> None:
    """Raise ValueError if these are not a feed and a date (YYYY-MM-DD) that are valid in folder names."""
    if _FEED.fullmatch(feed) is None:
        raise ValueError(f"{feed[:80]!r} is not the name of a feed")
    if _DATE.fullmatch(date) is None:
        raise ValueError(f"{date[:80]!r} is not a date (YYYY-MM-DD)")


def day_folder(feed: str, date: str) -> str:
    """Return the Hive-style folder of a feed and date (YYYY-MM-DD) in the archive, the days, or a bucket."""
    return f"feed={feed}/date={date}"


def feed_and_date(folder: PurePath) -> tuple[str, str]:
    """Return the feed and date of such a folder."""
    return folder.parent.name.removeprefix("feed="), folder.name.removeprefix("date=")


def day_record(stem: str) -> str:
    """Return the file name of a day's record; the stem is its date locally, and the day file's stem in a bucket."""
    return f"_{stem}.day.json"


SESSION_RECORD, _SESSION_RECEIPT = "session.json", "receipt.json"


def parquet(stem: str) -> str:
    """Return the file name of a day's file, or of a batch's in the default format."""
    return f"{stem}.parquet"


def receipt_record(record: Path) -> Path:
    """Return the path of the receipt of a manifest, a day's record, or a session's record."""
    return record.with_name(_SESSION_RECEIPT) if record.name == SESSION_RECORD else _beside(record, "receipt")


def removed_record(record: Path) -> Path:
    """Return the path of the record that says that the file of a manifest or day was removed."""
    return _beside(record, "removed")


def _beside(record: Path, kind: str) -> Path:
    return record.with_name(f"{record.name.split('.', 1)[0]}.{kind}.json")


def is_session_name(text: str) -> bool:
    """Return whether `text` is a valid session name."""
    return _SESSION.fullmatch(text) is not None


def batches_in(files: Iterable[str]) -> set[str]:
    """Return the names of the batches to which these files belong, judging by their names.

    A `.cut` file alone is not a batch: it is all that is left if a recovery could trust nothing before the cut.
    """
    stems = {file.partition(".")[0].removeprefix("_") for file in files if not file.endswith(".cut")}
    return {stem for stem in stems if _BATCH.fullmatch(stem)}


@dataclass(frozen=True, slots=True, order=True)
class BatchName:
    """A batch: the `number`-th (from 0) file of one lane (from 0) of one session."""

    session: str
    lane: int
    number: int

    def __str__(self) -> str:
        return f"{self.session}-{self.lane}-{self.number:06d}"

    @classmethod
    def parse(cls, text: str) -> "BatchName":
        """Parse a name with or without file extensions and a leading `_`. Raises ValueError."""
        return _parsed(text.split(".", 1)[0].removeprefix("_"))

    @classmethod
    def exactly(cls, text: str) -> "BatchName":
        """Parse a name that must be exactly `text`. Raises ValueError."""
        name = cls.parse(text)
        if str(name) != text:
            raise ValueError(f"{text[:80]!r} is not the name of a batch (SESSION-LANE-NUMBER)")
        return name

    # In spool/<session>/, while it is written
    @property
    def journal(self) -> str:
        return f"{self}.csv.open"

    @property
    def sums(self) -> str:
        """The journal's sidecar file, with a checksum for each write."""
        return f"{self}.sums"

    # In sealed/
    @property
    def sealed(self) -> str:
        return f"{self}.csv"

    @property
    def seal(self) -> str:
        return f"{self}.seal.json"

    # In validated/
    @property
    def validated(self) -> str:
        return f"{self}.arrow"

    @property
    def report(self) -> str:
        return f"{self}.report.json"

    # In quarantine/
    @property
    def rejected_rows(self) -> str:
        return f"{self}.rows.csv"

    @property
    def rejected_frames(self) -> str:
        return f"{self}.frames.jsonl"

    @property
    def cut(self) -> str:
        """What a recovery cut from the end of a journal."""
        return f"{self}.cut"

    @property
    def cut_frames(self) -> str:
        """What a recovery cut from the end of the rejected frames."""
        return f"{self}.frames.cut"

    @property
    def rejected_batch(self) -> str:
        """A sealed file that could not be read as a journal at all."""
        return f"{self}.csv"

    @property
    def rejects(self) -> tuple[str, ...]:
        """Every file that it may have in `quarantine/`."""
        return self.rejected_rows, self.rejected_frames, self.cut, self.cut_frames, self.rejected_batch

    # In archive/feed=…/date=…/; readers of whole folders (Hive, Spark, pyarrow, pandas) skip a leading `_`.
    @property
    def archived(self) -> str:
        """The archived file in the default format."""
        return self.archived_as("parquet")

    @property
    def archives(self) -> tuple[str, ...]:
        """Every name that its archived file may have."""
        return tuple(self.archived_as(each) for each in ("parquet", "csv.zst", "csv.gz"))

    def archived_as(self, file_format: str) -> str:
        """Return the name of the archived file in a format: parquet, csv.zst, or csv.gz."""
        return f"{self}.{file_format}"

    @property
    def manifest(self) -> str:
        return f"_{self}{_MANIFEST}"

    @property
    def receipt(self) -> str:
        return f"_{self}.receipt.json"

    @property
    def removed(self) -> str:
        """The record of why the archived file is no longer here, and where its rows are."""
        return f"_{self}.removed.json"


@lru_cache(maxsize=65_536)  # Listing a year's batches parses each name several times.
def _parsed(text: str) -> BatchName:
    match = _BATCH.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:80]!r} is not the name of a batch (SESSION-LANE-NUMBER)")
    return BatchName(match[1], int(match[2]), int(match[3]))


def archived_in(files: Iterable[str]) -> list[BatchName]:
    """Return the batches whose manifests are among the files of a folder, in order."""
    manifests = (file for file in files if file.startswith("_") and file.endswith(_MANIFEST))
    return in_order(map(_parsed, batches_in(manifests)))


def in_order(names: Iterable[BatchName]) -> list[BatchName]:
    """Return these names sorted, five times as fast as `sorted` does it."""
    return sorted(names, key=attrgetter("session", "lane", "number"))


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a bucket's objects, all of which start with `prefix`."""

    prefix: str

    @property
    def batches(self) -> str:
        """The prefix of the keys of archived batches, sessions, and quarantine."""
        return f"{self.prefix}/"

    @property
    def days(self) -> str:
        """The prefix of the keys of merged days; outside `prefix`, whose readers would count each trade twice."""
        return f"{self.prefix}{BY_DAY}/"

    def of_batch(self, feed: str, date: str, file: str) -> str:
        """Return the key of a file of an archived batch."""
        return f"{self.batches}{day_folder(feed, date)}/{file}"

    def of_day(self, feed: str, date: str, file: str = "") -> str:
        """Return the key of a merged day's file or record, or without `file` the prefix of that day's keys."""
        return f"{self.days}{day_folder(feed, date)}/{file}"

    def of_session(self, session: str) -> str:
        """Return the key of a session's record."""
        return f"{self.prefix}/_sessions/{session}/{SESSION_RECORD}"

    def of_quarantine(self, file: str) -> str:
        """Return the key of a batch's file in quarantine."""
        return f"{self.prefix}/_quarantine/{file}"

    def holds_record(self, key: str) -> bool:
        """Return whether this could be the key of a batch's, session's, or day's record."""
        return key.startswith((f"{self.batches}feed=", f"{self.batches}_sessions/", f"{self.days}feed="))

    def holds_manifest(self, key: str) -> bool:
        """Return whether this could be the key of an archived batch's manifest."""
        return key.startswith(f"{self.batches}feed=") and key.endswith(_MANIFEST)

    def batch_at(self, key: str) -> tuple[str, str, BatchName]:
        """Return the feed, date, and batch of a manifest's key. Raises ValueError if it is not one."""
        match = _MANIFEST_KEY.fullmatch(key.removeprefix(self.batches))
        feed, date, name = match.groups() if match else ("", "", "")
        check_day(feed, date)
        return feed, date, BatchName.exactly(name)

    def day_at(self, key: str) -> tuple[str, str, str] | None:
        """Return the feed, date, and stem of the key of a day's record; None if it is not one."""
        match = _DAY_KEY.fullmatch(key.removeprefix(self.days))
        return (match[1], match[2], match[3]) if match else None
