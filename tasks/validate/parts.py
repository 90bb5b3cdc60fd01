"""Writes the two parts of a split batch: valid rows as an Arrow stream, rejected lines as quarantine."""

import hashlib
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.archive import quarantine
from tasks.archive.schema import CODED_SCHEMA, TEXTS, without_missing
from tasks.archive.trade_numbers import TradeNumbers
from tasks.feeds.registry import numbers_trades
from tasks.records.manifest import Report, Seal
from tasks.records.trade import journal_columns
from tasks.storage.store import begun, publish, sync, unfinished
from tasks.validate.coded import Coded
from tasks.validate.lines import Slice
from tasks.validate.prints import Marks, hashes
from tasks.validate.resent import Resent
from tasks.validate.row_counts import RowCounts

_EXAMPLES = 5
_EXAMPLE_CHARACTERS = 300


class Parts:
    """Both files, under temporary names until `publish`; leaving the context without it removes them."""

    def __init__(self, validated: Path, rejected: Path, resent: Resent, seal: Seal) -> None:
        self._columns = journal_columns(seal.extra_columns)
        self._schema = without_missing(CODED_SCHEMA, seal.extra_columns)
        self._is_numbered = numbers_trades(seal.feed)
        self._validated, self._rejected = validated, rejected
        self._arrow_file = pa.OSFile(str(begun(validated)), "wb")
        self._arrow = pa.ipc.new_stream(self._arrow_file, self._schema)
        self._csv = begun(rejected).open("wb")
        self._digest = hashlib.sha256()
        self._beside = ThreadPoolExecutor(1, "sync")
        self._synced: list[Future[None]] = []
        self._numbers = TradeNumbers()
        self._counts = RowCounts()
        self._resent, self._resent_rows = resent, 0
        # Slices whose `resent` marks are not final yet, and the final marks of the first of them.
        self._waiting: deque[dict[str, pa.Array]] = deque()
        self._marks: Marks = np.empty(0, np.bool_)
        self._reasons: Counter[str] = Counter()
        self._examples: list[str] = []
        self._valid = self._quarantined = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._beside.shutdown()
        self._close()
        for path in (self._validated, self._rejected):
            unfinished(path).unlink(missing_ok=True)

    def write(self, piece: Slice, broken: pl.DataFrame) -> None:
        """Write each line to its part; `broken` has a boolean column for each rule that some line breaks."""
        if self._is_numbered and "trade_id" in self._columns:
            self._numbers.note(piece.frame)  # Rejected rows count too: their numbers were received.
        rows = piece.frame.select(self._columns)
        if broken.width:
            rejected = broken.select(pl.any_horizontal(pl.all()).alias("rejected")).to_series()
            rows = rows.filter(~rejected)
            self._write_rejected(piece, broken.filter(rejected), rejected)
        self._write_valid(rows)

    def publish(self) -> Report:
        """Rename the files to their final names; without rejected lines there is no quarantine file."""
        self._write_marked(self._resent.end())
        self._close()
        if self._quarantined:
            publish(self._rejected)
        else:
            self._rejected.unlink(missing_ok=True)
            sync(self._rejected.parent)
        for synced in self._synced:
            synced.result()
        with unfinished(self._validated).open("rb") as file:
            hashed = self._beside.submit(hashlib.file_digest, file, "sha256")
            publish(self._validated)
            validated_sha256 = hashed.result().hexdigest()
        return Report(
            rows=self._valid + self._quarantined,
            valid=self._valid,
            quarantined=self._quarantined,
            reasons=dict(sorted(self._reasons.items())),
            examples=tuple(self._examples),
            resent=self._resent_rows,
            odd_conditions=self._counts.odd_conditions,
            out_of_order=self._counts.out_of_order,
            late=self._counts.late,
            lag_ms=self._counts.lag_ms(),
            per_symbol=dict(sorted(self._counts.per_symbol.items())),
            quarantine_sha256=self._digest.hexdigest() if self._quarantined else None,
            validated_sha256=validated_sha256,
            event_in_ms=self._counts.event_in_ms,
            trade_ids=self._numbers.ranges(),
            missing_ids=tuple(self._numbers.missing),
            missing_ids_unlisted=self._numbers.unlisted,
        )

    def _close(self) -> None:
        if not self._arrow_file.closed:
            self._arrow.close()  # Not twice: every close writes an end-of-stream marker.
            self._arrow_file.close()
        self._csv.close()

    def _write_valid(self, rows: pl.DataFrame) -> None:
        if not len(rows):
            return
        # One chunk, because a frame's chunks depend on the number of reader threads.
        rows = rows.rechunk()
        texts = {name: Coded.of(rows[name]) for name in TEXTS}
        columns = {name: coded.to_arrow() for name, coded in texts.items()}
        for name in (each for each in self._columns if each not in TEXTS):
            values = rows[name].cast(pl.String) if name == "side" else rows[name]
            columns[name] = values.to_arrow().cast(self._schema.field(name).type)
        self._counts.add(rows, texts["symbol"], texts["conditions"])
        self._valid += len(rows)
        self._waiting.append(columns)
        event_ns = rows["ts_event"].to_numpy()
        self._write_marked(self._resent.add(hashes(event_ns, texts), event_ns))

    def _write_marked(self, marks: Marks) -> None:
        """Add the next final marks, and write the waiting slices whose rows all have one."""
        self._marks = np.concatenate([self._marks, marks])
        while self._waiting and len(self._waiting[0]["ts_recv"]) <= len(self._marks):
            columns = self._waiting.popleft()
            rows = len(columns["ts_recv"])
            columns["resent"], self._marks = pl.Series(self._marks[:rows]).to_arrow(), self._marks[rows:]
            self._resent_rows += columns["resent"].true_count
            arrays = [columns[name] for name in self._schema.names]
            self._arrow.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
            # The disk writes in the meantime, which leaves only the last slice to the final sync.
            self._synced.append(self._beside.submit(sync, unfinished(self._validated)))

    def _write_rejected(self, piece: Slice, broken: pl.DataFrame, rejected: pl.Series) -> None:
        lines = quarantine.split_lines(piece.text).filter(rejected.to_arrow())
        texts = pl.Series("text", quarantine.escape(quarantine.join_lines(lines)).split("\n")[:-1])
        numbers = rejected.arg_true().cast(pl.Int64) + piece.first
        reasons = _joined(broken)
        self._append(b"" if self._quarantined else quarantine.HEADER)
        self._append(quarantine.encode(numbers, reasons, texts))
        self._reasons.update(broken.sum().row(0, named=True))
        self._quarantined += len(texts)
        for row in range(min(len(texts), _EXAMPLES - len(self._examples))):
            self._examples.append(f"line {numbers[row]}: {reasons[row]}: {texts[row]}"[:_EXAMPLE_CHARACTERS])

    def _append(self, text: bytes) -> None:
        self._csv.write(text)
        self._digest.update(text)


def _joined(broken: pl.DataFrame) -> pl.Series:
    """Return the names of the rules that each row breaks, joined by `;`; each combination is joined once."""
    bits = [pl.col(name).cast(pl.UInt64) * (1 << place) for place, name in enumerate(broken.columns)]
    codes = broken.select(pl.sum_horizontal(bits)).to_series()
    known = codes.unique().to_list()
    names = [";".join(name for place, name in enumerate(broken.columns) if code >> place & 1) for code in known]
    return codes.replace_strict(known, names, return_dtype=pl.String).alias("reasons")
