"""Converts rows as the recorder handles them (`SCHEMA`, digits as text) to the columns of archived files, and back.

In a file, `price` and `size` are float64, `conditions` is a list, and every row has its `session`. A number's
*canonical form* is the fewest digits that give the same float64, without an exponent and without a trailing `.0`: in
Python, `repr(number).removesuffix(".0")`. Besides 0, only numbers from 0.0001 up to, not including, 10^15 have one:
there no language writes an exponent. `price_text` and `size_text` hold the digits as received wherever these are not
the canonical form, and are null elsewhere, so that every text comes back byte for byte.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from tasks.archive.dictionary_encoder import by_appearance, text_array
from tasks.archive.schema import CODED, NUMBERS, TIMESTAMP
from tasks.records.trade import NS_PER_MS

Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
_SMALLEST, _LIMIT = 1e-4, 1e15
_MOST = np.iinfo(np.int64).max


def canonical(numbers: pl.Series) -> pl.Series:
    """Return the canonical form of each Float64, null if it has none."""
    has_one = (numbers == 0) | numbers.is_between(_SMALLEST, _LIMIT, closed="left")
    texts = numbers.cast(pl.String).str.strip_suffix(".0")
    return pl.select(pl.when(has_one.fill_null(value=False)).then(texts)).to_series()


def to_file(table: pa.Table, schema: pa.Schema, session: pa.Array) -> pa.Table:
    """Convert a table with columns of `CODED_SCHEMA`, one chunk per text column, to a file's `schema`.

    Columns that are in the schema already stay as they are. `session` is the session's name in each row.
    """
    made: dict[str, Any] = {"session": session}
    for name in NUMBERS:
        if name in schema.names:
            made[name], made[f"{name}_text"] = _split(_one_chunk(table[name]))
    if "ts_event_ns" in schema.names:
        made["ts_event"], made["ts_event_ns"] = _ms_and_rest(table["ts_event"], schema.field("ts_event").type)
    made["conditions"] = _lists(_one_chunk(table["conditions"]), schema.field("conditions").type)
    columns = [made[each.name] if each.name in made else table[each.name] for each in schema]
    return pa.table(columns, schema=schema)


def from_file(table: pa.Table) -> pa.Table:
    """Convert a file's table back: digits and conditions are dictionary-encoded texts, and `session` is gone.

    A table from before format 2 stays as it is. Raises pyarrow.ArrowInvalid if a number and its text differ.
    """
    if "session" not in table.column_names:
        return table
    columns = {name: table[name] for name in table.column_names if name != "session"}
    for name in NUMBERS:
        if name in columns:
            columns[name] = _joined(name, columns[name], columns.pop(f"{name}_text"))
    if "ts_event_ns" in columns:
        columns["ts_event"] = _in_ns(columns["ts_event"], columns.pop("ts_event_ns"))
    columns["conditions"] = pa.chunked_array([_texts(chunk) for chunk in columns["conditions"].chunks], CODED)
    return pa.table(columns)


def constant(text: str, rows: int) -> pa.DictionaryArray:
    """Return the same text in every row."""
    return pa.DictionaryArray.from_arrays(_arrow(np.zeros(rows, np.int32)), text_array([text]))


def only(column: pa.DictionaryArray, wanted: npt.NDArray[np.bool_]) -> pa.DictionaryArray:
    """Return the column with null in all rows but the wanted ones, and without the texts of the others."""
    rows = np.flatnonzero(wanted)
    used, places = by_appearance(_values(column.indices)[rows], len(column.dictionary))
    codes = np.zeros(len(wanted), np.int32)
    codes[rows] = places
    indices = pl.select(pl.when(pl.Series(wanted)).then(pl.Series(codes))).to_series().to_arrow()
    return pa.DictionaryArray.from_arrays(indices, column.dictionary.take(_arrow(used)))


def _values(column: pa.Array) -> npt.NDArray[Any]:
    """Return the values by way of Polars: pyarrow would import pandas, for as much CPU as the rest takes."""
    return pl.Series(column).to_numpy()


def _arrow(values: npt.NDArray[Any]) -> pa.Array:
    return pl.Series(values).to_arrow()


def _one_chunk(column: pa.ChunkedArray) -> pa.DictionaryArray:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _parsed(texts: pa.Array) -> Floats:
    """Return each text as a float64, NaN if it is no number; a negative zero becomes a positive one."""
    numbers = pl.Series(texts, dtype=pl.String).cast(pl.Float64, strict=False).fill_null(np.nan)
    return numbers.to_numpy() + 0.0


def _split(column: pa.DictionaryArray) -> tuple[pa.Array, pa.DictionaryArray]:
    """Return the numbers, and the texts that are not canonical; each distinct text is parsed once."""
    numbers, codes = _parsed(column.dictionary), _values(column.indices)
    forms = canonical(pl.Series(numbers))
    is_odd = ~forms.eq_missing(pl.Series(column.dictionary, dtype=pl.String)).to_numpy()
    return _arrow(numbers[codes]), only(column, is_odd[codes])


def _joined(name: str, numbers: pa.ChunkedArray, texts: pa.ChunkedArray) -> pa.DictionaryArray:
    """Return the texts as received; each distinct number is formatted once."""
    values = numbers.combine_chunks().dictionary_encode()
    codes = _values(values.indices)
    forms = canonical(pl.Series(values.dictionary))
    odd = _one_chunk(texts) if texts.num_chunks else None
    if odd is None or odd.null_count == len(odd):
        has_none, known = forms.is_null().any(), forms
    else:
        rows = np.flatnonzero(~_values(odd.is_null()))
        of_texts = _values(odd.indices.fill_null(0))[rows]
        ours = _values(values.dictionary)[codes[rows]]
        if not np.array_equal(_parsed(odd.dictionary)[of_texts], ours, equal_nan=True):
            raise pa.ArrowInvalid(f"{name} differs from {name}_text")
        is_canonical = np.ones(len(codes), np.bool_)
        is_canonical[rows] = False
        has_none = forms.is_null().to_numpy()[codes[is_canonical]].any()
        codes = codes.copy()
        codes[rows] = len(forms) + of_texts
        known = pl.concat([forms, pl.Series(odd.dictionary, dtype=pl.String)])
    if has_none:
        raise pa.ArrowInvalid(f"{name} has a number without its {name}_text")
    return pa.DictionaryArray.from_arrays(
        pl.Series(codes, dtype=pl.Int32).to_arrow(), known.fill_null("").to_arrow().cast(pa.large_string())
    )


def _ms_and_rest(times: pa.ChunkedArray, kind: pa.DataType) -> tuple[pa.Array, pa.Array]:
    """Return the times in ms, and the ns beyond, null if 0."""
    times_ns = pl.Series(times.cast(pa.int64())).to_numpy()
    rest = pl.Series((times_ns % NS_PER_MS).astype(np.int32))
    return _arrow(times_ns // NS_PER_MS).cast(kind), pl.select(pl.when(rest != 0).then(rest)).to_series().to_arrow()


def _in_ns(times: pa.ChunkedArray, rest: pa.ChunkedArray) -> pa.Array:
    times_ms, rest_ns = (pl.Series(each.cast(pa.int64()).fill_null(0)).to_numpy() for each in (times, rest))
    return _arrow(times_ms * NS_PER_MS + rest_ns).cast(TIMESTAMP)


def _lists(column: pa.DictionaryArray, kind: pa.ListType) -> pa.ListArray:
    """Return each text as the list of its `;`-separated parts; an empty text has none."""
    known, codes = pl.Series(column.dictionary, dtype=pl.String), _values(column.indices)
    parts = known.filter(known != "").str.split(";")
    lengths = np.zeros(len(known), np.int32)
    lengths[(known != "").to_numpy()] = parts.list.len().to_numpy()
    ends = np.zeros(len(codes) + 1, np.int32)
    np.cumsum(lengths[codes], out=ends[1:])
    starts = (np.cumsum(lengths, dtype=np.int32) - lengths)[codes]
    places = np.arange(ends[-1], dtype=np.int32) + np.repeat(starts - ends[:-1], lengths[codes])
    flat = parts.explode().drop_nulls().to_arrow().cast(pa.large_string()).dictionary_encode()
    values = pa.DictionaryArray.from_arrays(_arrow(_values(flat.indices)[places]), flat.dictionary)
    return pa.ListArray.from_arrays(_arrow(ends), values, type=kind)


def _texts(lists: pa.ListArray) -> pa.DictionaryArray:
    """The inverse of `_lists`; each distinct list is joined once."""
    keys = _arrow(_keys(lists)).dictionary_encode()
    codes = _values(keys.indices)
    first = np.empty(len(keys.dictionary), np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]  # For equal codes the last assignment wins.
    known = lists.take(_arrow(first)).cast(pa.list_(pa.large_string()))
    texts = pl.Series(known, dtype=pl.List(pl.String)).list.join(";").to_arrow().cast(pa.large_string())
    return pa.DictionaryArray.from_arrays(keys.indices, texts)


def _keys(lists: pa.ListArray) -> npt.NDArray[np.int64]:
    """Return a number for each list, the same for equal lists only."""
    values = lists.values.dictionary_encode()  # Those of a file are encoded already.
    parts, starts, lengths = _values(values.indices), _values(lists.offsets)[:-1], _values(lists.value_lengths())
    # The digits of a key are its parts, counted from 1, and zeros after the last.
    base, limit, keys = len(values.dictionary) + 1, 1, np.zeros(len(lists), np.int64)
    for place in range(lengths.max(initial=0)):
        if limit > _MOST // base:
            known = _arrow(keys).dictionary_encode()
            keys, limit = _values(known.indices).astype(np.int64), len(known.dictionary)
        rows = np.flatnonzero(lengths > place)
        keys *= base
        keys[rows] += parts[starts[rows] + place] + 1
        limit *= base
    return keys
