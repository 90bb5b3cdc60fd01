"""Digits and conditions come back byte for byte from the numbers and lists of archived files."""

import math
import struct
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tasks.archive.columns import canonical, constant, from_file, to_file
from tasks.archive.encodings import Encoding, read_groups, writing
from tasks.archive.schema import CODED_SCHEMA, FILE_SCHEMA, SCHEMA, completed
from tasks.errors import CorruptionError

T = 1_795_530_600_000_000_000
SESSION = "20261124T143000Z-9f3c01ab"
TEXTS = st.one_of(
    st.decimals(min_value=0, max_value=10**18, allow_nan=False).map(str),
    st.floats(min_value=0, allow_nan=False, allow_infinity=False).map(repr),
    st.from_regex(r"\A[0-9]{1,19}(\.[0-9]{0,12})?\Z"),
    st.text("0123456789.eE+-x", max_size=20),
    st.sampled_from(["100.10", "1e5", "0", "0.0", "-0", "00.5", "5.", "1234567890123456789", "1e400", "1e-400", "nan"]),
)
CONDITIONS = st.one_of(
    st.lists(st.sampled_from(["1", "2", "12", "?", "a b"]), max_size=5).map(";".join),
    st.text("1;?x", max_size=6),
)


def rows(prices: list[str], sizes: list[str], conditions: list[str], event_ns: int = T) -> pa.Table:
    """Trades of one connection as a table of `CODED_SCHEMA`, each text column one chunk."""
    number = len(prices)
    table = pa.table(
        {
            "connection": [1] * number, "recv_seq": range(1, number + 1), "ts_recv": range(number),
            "ts_event": [event_ns] * number, "symbol": ["A"] * number, "price": prices, "size": sizes,
            "conditions": conditions, "resent": [False] * number,
        }
    )  # fmt: skip
    return completed(table).select(SCHEMA.names).cast(SCHEMA).cast(CODED_SCHEMA).combine_chunks()


@pytest.mark.slow
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(TEXTS, TEXTS, CONDITIONS), min_size=1, max_size=30))
@example([("1", "1.0", "1;2"), ("1.0", "1", "2;1"), ("1", "1.00", ""), ("1e0", "1", ";"), ("1", "1", "1;2")])
def test_every_text_comes_back(tmp_path: Path, trades: list[tuple[str, str, str]]) -> None:
    """Any digits and conditions come back byte for byte from a file of each Parquet encoding."""
    table = rows(*(list(column) for column in zip(*trades, strict=True)), T + 1)
    for encoding in (Encoding(), Encoding("max")):
        with writing(tmp_path / "x.parquet", encoding, {}, SESSION) as write:
            write(table)
        for coded in (False, True):
            back = pa.concat_tables(read_groups(tmp_path / "x.parquet", coded=coded))
            assert back.cast(SCHEMA).equals(table.cast(SCHEMA))


@settings(deadline=None, max_examples=500)
@given(st.one_of(st.floats(), st.floats(1e-5, 1e16), st.decimals(0, 10**6, places=4).map(float)))
def test_the_canonical_form_is_pythons(number: float) -> None:
    """The canonical form is what Python writes, without `.0`, and exists only where no exponent is written."""
    (form,) = canonical(pl.Series([number], dtype=pl.Float64))
    has_one = number == 0 or 1e-4 <= number < 1e15
    assert form == (repr(number).removesuffix(".0") if has_one else None)
    assert form is None or "e" not in form


def test_texts_are_kept_where_digits_are_not_canonical() -> None:
    """Only unusual digits have a text; what float64 cannot hold is kept as text."""
    prices = ["100.1", "100.10", "1e5", "100", "100.0", "0.0001", "0.00009", "1e400", "0.1234567890123456789"]
    table = to_file(rows(prices, prices[::-1], [""] * 9), FILE_SCHEMA, constant(SESSION, 9))
    assert table["price"].to_pylist() == [float(text) for text in prices]
    kept = [None, "100.10", "1e5", None, "100.0", None, "0.00009", "1e400", "0.1234567890123456789"]
    assert table["price_text"].to_pylist() == kept
    assert table["size_text"].to_pylist() == kept[::-1]
    assert math.isinf(table["price"][7].as_py())


@pytest.mark.parametrize(
    ("changed", "values", "said"),
    [
        ("price", pa.array([7.5]), "price differs from price_text"),
        ("size", pa.array([math.nan]), "size differs from size_text"),
        ("size_text", pa.nulls(1, pa.dictionary(pa.int32(), pa.large_string())), "size has a number without its"),
    ],
)
def test_a_number_that_is_not_its_text_is_found(changed: str, values: pa.Array, said: str) -> None:
    """A number that its own text contradicts, or that needs a text and has none, is an error."""
    table = to_file(rows(["1.50"], ["1e20"], [""]), FILE_SCHEMA, constant(SESSION, 1))
    with pytest.raises(pa.ArrowInvalid, match=said):
        from_file(table.set_column(table.schema.get_field_index(changed), changed, values))


def test_more_texts_than_a_dictionary_holds(tmp_path: Path) -> None:
    """A row group with megabytes of different digits and conditions, as a hostile vendor may send, comes back."""
    number = 60_000
    odd = [f"?;{n:0100d}" for n in range(number)]
    digits = [f"1.{n:098d}0" for n in range(number)]
    table = rows(digits, digits[::-1], odd)
    for encoding in (Encoding(), Encoding("max")):
        with writing(tmp_path / "x.parquet", encoding, {}, SESSION) as write:
            write(table)
        for coded in (False, True):
            assert (
                pa.concat_tables(read_groups(tmp_path / "x.parquet", coded=coded))
                .cast(SCHEMA)
                .equals(table.cast(SCHEMA))
            )


def test_long_lists_that_differ_in_one_part(tmp_path: Path) -> None:
    """Lists so long that their keys do not fit into 64 bits differ where one code does, the first or the last."""
    parts = [str(n) for n in range(254)]
    odd = [";".join([*parts[:at], "x", *parts[at + 1 : 12]]) for at in range(12)]
    texts = [";".join(parts), *odd, *(";".join(parts[:length]) for length in range(13)), *odd[::-1]]
    with writing(tmp_path / "x.parquet", Encoding(), {}, SESSION) as write:
        write(rows(["1"] * len(texts), ["1"] * len(texts), texts))
    (back,) = read_groups(tmp_path / "x.parquet")
    assert back["conditions"].to_pylist() == texts


@pytest.mark.parametrize("bit", [2, 128])
def test_a_flipped_bit_in_a_columns_name(tmp_path: Path, bit: int) -> None:
    """A changed name is damage, and no other error; that of a list's inner parts changes nothing while it is text."""
    file, table = tmp_path / "x.parquet", rows(["1", "2.50"], ["1", "3"], ["1;2", ""])
    with writing(file, Encoding(), {}, SESSION) as write:
        write(table)
    whole = file.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for name in (b"session", b"list", b"element", b"side"):
        at = whole.index(name, footer)
        file.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        if bit == 2 and name in (b"list", b"element"):
            (back,) = read_groups(file, coded=True)
            assert back.cast(SCHEMA).equals(table.cast(SCHEMA))
        else:
            with pytest.raises(CorruptionError, match=str(file)):
                list(read_groups(file, coded=True))


def test_others_see_numbers_and_lists(tmp_path: Path) -> None:
    """Polars, duckdb, and pyarrow see float64 prices, lists of conditions, ns in every file, and the session."""
    files = []
    for number, event_ns in enumerate((T, T + 1)):
        files.append(tmp_path / f"{number}.parquet")
        with writing(files[-1], Encoding(), {}, SESSION) as write:
            write(rows(["231.5", "231.50"], ["0.000000001", "100"], ["1;2", ""], event_ns))
    frame = pl.scan_parquet(tmp_path / "*.parquet").collect()
    assert frame.schema["ts_event"] == pl.Datetime("ns", "UTC")
    assert frame["price"].to_list() == [231.5] * 4
    assert frame["conditions"].to_list() == [["1", "2"], []] * 2
    assert set(frame["session"]) == {SESSION}
    found = duckdb.sql(f"select price, price_text, size, conditions from '{files[0]}'").fetchall()
    assert found == [(231.5, None, 1e-09, ["1", "2"]), (231.5, "231.50", 100.0, [])]
    footer = pq.read_metadata(files[0])
    assert footer.metadata[b"format_version"] == b"2"
    assert footer.row_group(0).column(footer.schema.names.index("price")).has_column_index


def test_equal_floats_have_equal_bits() -> None:
    """A negative zero is stored as zero, and its digits as text: Parquet's dictionaries may not tell them apart."""
    table = to_file(rows(["0", "-0"], ["0.0", "-0.0"], ["", ""]), FILE_SCHEMA, constant(SESSION, 2))
    assert {struct.pack("<d", number) for number in table["price"].to_pylist()} == {bytes(8)}
    assert table["price_text"].to_pylist() == [None, "-0"]
