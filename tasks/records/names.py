"""What is a session called, what is a batch called, and which files belong to it?

The one place that formats and parses file names. Names sort in order of recording, hold nothing but
`[A-Za-z0-9-]`, and cannot collide across machines: a session's name ends in 32 random bits.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

_SESSION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
_FEED = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_DATE = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
_BATCH = re.compile(rf"({_SESSION.pattern})-(\d{{1,5}})-(\d{{6}})")


def session_name(started_ns: int, random_bytes: Callable[[int], bytes]) -> str:
    """The name of a session that starts at `started_ns` (UTC ns), such as `20261124T143000Z-9f3c01ab`."""
    start = datetime.fromtimestamp(started_ns // 1_000_000_000, UTC)
    return f"{start:%Y%m%dT%H%M%SZ}-{random_bytes(4).hex()}"


def check_day(feed: str, date: str) -> None:
    """Raises ValueError where these could not be a feed and a date (YYYY-MM-DD), of which folders are named."""
    if _FEED.fullmatch(feed) is None:
        raise ValueError(f"{feed[:80]!r} is not the name of a feed")
    if _DATE.fullmatch(date) is None:
        raise ValueError(f"{date[:80]!r} is not a date (YYYY-MM-DD)")


def is_session_name(text: str) -> bool:
    """Whether `text` is what `session_name` gives."""
    return _SESSION.fullmatch(text) is not None


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
        """The name that `text` spells, with or without a file's endings and a leading `_`; else raises ValueError."""
        match = _BATCH.fullmatch(text.split(".", 1)[0].removeprefix("_"))
        if match is None:
            raise ValueError(f"{text[:80]!r} is not the name of a batch (SESSION-LANE-NUMBER)")
        return cls(match[1], int(match[2]), int(match[3]))

    @classmethod
    def exactly(cls, text: str) -> "BatchName":
        """The name that `text` is, and nothing besides; else raises ValueError."""
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
        """The journal's sidecar: a checksum for each write."""
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
        """All that may lie in `quarantine/` of it."""
        return self.rejected_rows, self.rejected_frames, self.cut, self.cut_frames, self.rejected_batch

    # In archive/feed=…/date=…/; readers of whole folders (Hive, Spark, pyarrow, pandas) pass over a leading `_`.
    @property
    def archived(self) -> str:
        """In the default form."""
        return self.archived_as("parquet")

    @property
    def archives(self) -> tuple[str, ...]:
        """All names that its archived file may have."""
        return tuple(self.archived_as(each) for each in ("parquet", "csv.zst", "csv.gz"))

    def archived_as(self, file_format: str) -> str:
        """In another form: parquet, csv.zst or csv.gz."""
        return f"{self}.{file_format}"

    @property
    def manifest(self) -> str:
        return f"_{self}.manifest.json"

    @property
    def receipt(self) -> str:
        return f"_{self}.receipt.json"

    @property
    def removed(self) -> str:
        """Says why the archived file is no longer here, and where its rows are."""
        return f"_{self}.removed.json"
