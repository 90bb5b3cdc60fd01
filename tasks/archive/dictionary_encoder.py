"""How are trades held so that millions of them are sorted and laid aside fast, in little memory?

Symbols and conditions are numbers into a list of all that were seen so far, times are ns since 1970 UTC. Prices and
sizes stay short texts: a day may have as many different ones as trades.
"""

from collections.abc import Iterable
from typing import cast

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from tasks.archive.schema import CODED_SCHEMA, TEXTS

_TIMES = ("ts_recv", "ts_event")
_NUMBERED = ("symbol", "conditions")


class DictionaryEncoder:
    """Turns tables into such frames, and frames back into tables.

    Symbols that are given come first, in the order of their bytes: the numbers of those sort as the symbols do.
    """

    def __init__(self, symbols: Iterable[str] = ()) -> None:
        self._codes: dict[str, int] = {}
        for symbol in sorted(symbols):
            self._codes.setdefault(symbol, len(self._codes))
        self._texts = text_array(self._codes)

    def of(self, table: pa.Table) -> pl.DataFrame:
        """A table of `CODED_SCHEMA`'s columns, more or fewer, as a frame."""
        arrays = [self._numbers(name, table[name]) for name in table.column_names]
        return cast(pl.DataFrame, pl.from_arrow(pa.table(arrays, names=table.column_names)))

    def table(self, rows: pl.DataFrame) -> pa.Table:
        """Those rows as a table of `CODED_SCHEMA`, each text column one chunk; its texts in order of appearance."""
        columns = [
            self._coded(rows[each.name]) if each.name in TEXTS else rows[each.name].to_arrow().cast(each.type)
            for each in CODED_SCHEMA
        ]
        return pa.table(columns, schema=CODED_SCHEMA)

    def _numbers(self, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
        if name in _TIMES:
            return column.cast(pa.int64())
        if name not in _NUMBERED:
            return column.cast(pa.large_string()) if name in TEXTS else column
        return pa.chunked_array(
            [self._known(chunk.dictionary).take(chunk.indices) for chunk in column.chunks], pa.int32()
        )

    def _known(self, texts: pa.Array) -> pa.Array:
        codes = self._codes
        return pl.Series([codes.setdefault(text, len(codes)) for text in texts.to_pylist()], dtype=pl.Int32).to_arrow()

    def _coded(self, codes: pl.Series) -> pa.DictionaryArray:
        if codes.dtype == pl.String:
            return codes.to_arrow().cast(pa.large_string()).dictionary_encode()
        if len(self._texts) < len(self._codes):
            self._texts = pa.concat_arrays([self._texts, text_array(list(self._codes)[len(self._texts) :])])
        used, places = _by_appearance(codes.to_numpy(), len(self._codes))
        return pa.DictionaryArray.from_arrays(
            pl.Series(places).to_arrow(), self._texts.take(pl.Series(used).to_arrow())
        )


def text_array(texts: Iterable[str]) -> pa.Array:
    """These texts as large_string, by way of polars: pyarrow's own way imports pandas, for a fifth of a second."""
    return pl.Series(list(texts), dtype=pl.String).to_arrow().cast(pa.large_string())


def _by_appearance(codes: npt.NDArray[np.int32], number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """The different ones of so many codes, in the order in which they first stand, and each row's place among them."""
    rows = len(codes)
    first = np.full(number, rows, np.int32)
    first[codes[::-1]] = np.arange(rows - 1, -1, -1, dtype=np.int32)  # Of equal ones the last that is set counts.
    used = np.flatnonzero(first < rows)
    used = used[np.argsort(first[used])]
    ranks = np.empty(number, np.int32)
    ranks[used] = np.arange(len(used), dtype=np.int32)
    return used, ranks[codes]
