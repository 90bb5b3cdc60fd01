"""Decoding restores encoded tables, and symbol codes sort like the symbols."""

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.archive.dictionary_encoder import DictionaryEncoder
from tasks.archive.schema import CODED_SCHEMA, SCHEMA

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
Row = tuple[str, str, str, str, int, bool, str | None]
SIDE = st.sampled_from(["buy", "sell", None])
ROW = st.tuples(TEXT, TEXT, TEXT, TEXT, st.integers(0, 2**62), st.booleans(), SIDE)


def table(rows: list[Row]) -> pa.Table:
    """Rows of `CODED_SCHEMA`, each text column one chunk."""
    symbol, price, size, conditions, time, mark, side = (list(column) for column in zip(*rows, strict=True))
    times = pa.array(time, pa.int64()).cast(SCHEMA.field("ts_recv").type)
    texts = [pa.array(text, pa.large_string()) for text in (symbol, price, size, conditions)]
    connection, seq = pa.array([1] * len(rows), pa.int32()), pa.array(time, pa.int64())
    ids = pa.array([None if each is None else at for each, at in zip(side, time, strict=True)], pa.int64())
    columns = [connection, seq, times, times, *texts, ids, ids, pa.array(side, pa.large_string()), pa.array(mark)]
    return pa.table(columns, schema=SCHEMA).cast(CODED_SCHEMA)


@given(parts=st.lists(st.lists(ROW, min_size=1, max_size=12), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_tables_come_back(parts: list[list[Row]]) -> None:
    """Each table decodes to itself, whatever came before, with dictionaries in order of appearance."""
    codes, tables = DictionaryEncoder(), [table(part) for part in parts]
    frames = [codes.encode(each) for each in tables]
    for before, frame in zip(tables, frames, strict=True):
        assert [name for name, kind in frame.schema.items() if kind == pl.String] == ["price", "size", "side"]
        back = codes.decode(frame)
        assert back.cast(SCHEMA).equals(before.cast(SCHEMA))
        for name in ("symbol", "price"):
            texts = back[name].combine_chunks()
            assert texts.dictionary.to_pylist() == list(dict.fromkeys(before[name].to_pylist()))


@given(symbols=st.lists(TEXT, min_size=1, max_size=20, unique=True))
@settings(max_examples=40, deadline=None)
def test_known_symbols_sort_by_their_numbers(symbols: list[str]) -> None:
    """Codes of symbols given to the constructor sort like their UTF-8 bytes."""
    codes = DictionaryEncoder(symbols)
    frame = codes.encode(table([(symbol, "1", "1", "", 0, False, None) for symbol in symbols]))
    numbered = sorted(zip(frame["symbol"], symbols, strict=True))
    assert [symbol.encode() for _, symbol in numbered] == sorted(symbol.encode() for symbol in symbols)


def test_columns_more_or_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extra columns are passed through, and columns may be missing."""
    part = table([("A", "1", "2", "", 5, True, None)]).select(["symbol", "ts_event"])
    frame = DictionaryEncoder().encode(part.append_column("place", pa.array([7], pa.int32())))
    assert frame.rows() == [(0, 5, 7)]
