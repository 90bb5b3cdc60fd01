"""Encodes trades so that millions of rows can be sorted and spilled to disk fast and in little memory.

Symbols and conditions become indices into a list of all values seen so far; times become ns since 1970 UTC. Prices
and sizes stay short texts, because a day may have as many distinct values as trades.
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
    """Encodes tables as frames, and decodes frames to tables.

    The symbols passed to the constructor get the first codes, in byte order, so their codes sort like the symbols.
    """

    def __init__(self, symbols: Iterable[str] = ()) -> None:
        self._codes: dict[str, int] = {}
        for symbol in sorted(symbols):
            self._codes.setdefault(symbol, len(self._codes))
        self._texts = text_array(self._codes)

    def encode(self, table: pa.Table) -> pl.DataFrame:
        """Encode a table whose columns are of `CODED_SCHEMA`'s types; columns may be missing or added."""
        arrays = [self._numbers(name, table[name]) for name in table.column_names]
        return cast(pl.DataFrame, pl.from_arrow(pa.table(arrays, names=table.column_names)))

    def decode(self, rows: pl.DataFrame) -> pa.Table:
        """Decode rows to `CODED_SCHEMA`, one chunk per text column, dictionary values in order of appearance."""
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
        used, places = by_appearance(codes.to_numpy(), len(self._codes))
        return pa.DictionaryArray.from_arrays(
            pl.Series(places).to_arrow(), self._texts.take(pl.Series(used).to_arrow())
        )


def text_array(texts: Iterable[str]) -> pa.Array:
    """Return the texts as large_string, built by polars: pyarrow would import pandas, which takes 0.2 s."""
    return pl.Series(list(texts), dtype=pl.String).to_arrow().cast(pa.large_string())


def by_appearance(codes: npt.NDArray[np.int32], number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return the distinct codes (below `number`) in order of first appearance, and each row's index into them."""
    rows = len(codes)
    first = np.full(number, rows, np.int32)
    # Reversed: for equal codes the last assignment wins.
    first[codes[::-1]] = np.arange(rows - 1, -1, -1, dtype=np.int32)
    used = np.flatnonzero(first < rows)
    used = used[np.argsort(first[used])]
    ranks = np.empty(number, np.int32)
    ranks[used] = np.arange(len(used), dtype=np.int32)
    return used, ranks[codes]
