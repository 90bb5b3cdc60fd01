"""Follows the journals of a running session by byte offset: each line is read once, however its file moves.

A journal is renamed when it is sealed and removed once it is validated, but an open descriptor still reads all of it.
So a journal stays open until its name is gone from the spool: it is complete by then, and is read to its end once more.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from tasks.archive.day_listing import files_in
from tasks.records.names import BatchName

COLUMNS = ("ts_recv", "ts_event", "symbol", "price", "size", "conditions")
_TIMES = ("ts_recv", "ts_event")
_OPEN = ".csv.open"
_BLOCK_BYTES, _HEADER_BYTES = 4 << 20, 4_096


class JournalChangedError(Exception):
    """A journal was cut or replaced, as by a recovery: what was read of it may not be in it anymore."""


@dataclass(slots=True)
class _Journal:
    """An open journal: its columns (none before its header is whole), and where its first unread line begins.

    `rows` counts the lines read; `before` reads those that were there when the journal was found.
    """

    path: Path
    descriptor: int
    inode: int
    columns: tuple[str, ...] = ()
    offset: int = 0
    rows: int = 0
    before: "_Journal | None" = None

    @property
    def is_empty(self) -> bool:
        """Whether there was no line after the header."""
        return self.offset <= len(",".join(self.columns).encode()) + 1

    def read(self, until: int) -> Iterator[pl.DataFrame]:
        """Yield the whole lines from here up to a byte; a torn last line stays unread."""
        while self.offset < until:
            block = os.pread(self.descriptor, min(_BLOCK_BYTES, until - self.offset), self.offset)
            lines = block[: block.rfind(b"\n") + 1]
            if not lines:
                return
            self.offset += len(lines)
            if not self.columns:
                self.columns = _columns(self.descriptor)
                lines = lines[lines.find(b"\n") + 1 :]
            if lines:
                self.rows += lines.count(b"\n")
                yield parsed(lines, self.columns)

    def close(self) -> None:
        """Close the file, once."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def size(self) -> int:
        """Return how long it is now. Raises JournalChangedError if it is shorter, or another file has its name."""
        size = os.fstat(self.descriptor).st_size
        with suppress(FileNotFoundError):
            if self.path.stat().st_ino != self.inode:
                raise JournalChangedError(self.path)
        if size < self.offset:
            raise JournalChangedError(self.path)
        return size


class JournalTail:
    """Reads what is new in the journals of one session's spool folder, of all lanes. Used by one thread.

    `seen` has every batch of which it reads the rows. What is in a journal when it is found first is not read by
    `read`, but by the function that `found` returns for it, which may run in another thread.
    """

    def __init__(self, folder: Path) -> None:
        self.seen: set[BatchName] = set()
        self._folder = folder
        self._open: dict[BatchName, _Journal] = {}
        self._before: list[_Journal] = []

    def found(self) -> dict[BatchName, Callable[[], Iterator[pl.DataFrame]]]:
        """Open the journals that are there now; return for each what reads its rows so far, once."""
        self._look()
        return {name: self._rows_so_far(name) for name in self._open}

    def read(self) -> Iterator[tuple[BatchName, pl.DataFrame]]:
        """Yield the rows that are new, batch by batch in order. Raises JournalChangedError."""
        listed = self._look()
        for name, journal in sorted(self._open.items()):
            for frame in journal.read(journal.size()):
                yield name, frame
            if name not in listed:
                self._open.pop(name).close()
                if journal.is_empty:  # It was empty, and the next one has its name.
                    self.seen.discard(name)

    def open_rows(self) -> dict[BatchName, int]:
        """Return how many rows have been read of each batch that is being written."""
        return {name: each.rows + (each.before.rows if each.before else 0) for name, each in self._open.items()}

    def close(self) -> None:
        """Close what is open. No function of `found` may be running."""
        for journal in (*self._open.values(), *self._before):
            journal.close()
        self._open.clear()

    def _look(self) -> list[BatchName]:
        """Open journals that are new; return those that are in the spool."""
        listed = [BatchName.parse(each.name) for each in files_in(self._folder) if each.name.endswith(_OPEN)]
        for name in sorted(set(listed) - self.seen):
            # One that is gone again has been sealed: its rows are read there.
            with suppress(FileNotFoundError):
                self._open[name] = _opened(self._folder / name.journal)
                self.seen.add(name)
        return listed

    def _rows_so_far(self, name: BatchName) -> Callable[[], Iterator[pl.DataFrame]]:
        journal = self._open[name]
        start = journal.before = _Journal(journal.path, os.dup(journal.descriptor), journal.inode)
        self._before.append(start)
        end = _end_of_lines(journal.descriptor)
        if end:
            journal.columns, journal.offset = _columns(journal.descriptor), end

        def rows() -> Iterator[pl.DataFrame]:
            try:
                yield from start.read(end)
            finally:
                start.close()

        return rows


def parsed(lines: bytes, columns: tuple[str, ...]) -> pl.DataFrame:
    """Parse whole lines of a journal; times that are no numbers are null, and lines with other columns left out."""
    try:
        table = _table(lines, columns)
    except pa.ArrowInvalid:  # Bytes that are no UTF-8: a damaged line, which validation rejects.
        table = _table(lines.decode("utf-8", "replace").encode(), columns)
    frame = pl.DataFrame(pl.from_arrow(table))
    return frame.with_columns(pl.col(_TIMES).cast(pl.Int64, strict=False))


def _table(lines: bytes, columns: tuple[str, ...]) -> pa.Table:
    return pa_csv.read_csv(
        pa.BufferReader(lines),
        read_options=pa_csv.ReadOptions(column_names=columns, use_threads=False, block_size=len(lines)),
        parse_options=pa_csv.ParseOptions(quote_char=False, invalid_row_handler=lambda _: "skip"),
        convert_options=pa_csv.ConvertOptions(
            include_columns=COLUMNS, column_types=dict.fromkeys(COLUMNS, pa.large_string()), strings_can_be_null=False
        ),
    )


def _opened(path: Path) -> _Journal:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    return _Journal(path, descriptor, os.fstat(descriptor).st_ino)


def _end_of_lines(descriptor: int) -> int:
    """Return where the last whole line ends; 0 if there is none."""
    end = start = os.fstat(descriptor).st_size
    while start > 0:
        start = max(0, end - _BLOCK_BYTES)
        last = os.pread(descriptor, end - start, start).rfind(b"\n")
        if last >= 0:
            return start + last + 1
        end = start
    return 0


def _columns(descriptor: int) -> tuple[str, ...]:
    return tuple(os.pread(descriptor, _HEADER_BYTES, 0).split(b"\n")[0].decode("utf-8", "replace").split(","))
