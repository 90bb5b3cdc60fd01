import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tape_trades import read_trades

from tasks.errors import TerminalError
from tasks.records.trade import Trade
from tasks.replay.generate import generate
from tasks.replay.tape_file import read_tape, row_of, write_tape

HEADER = "ts_event_ms,symbol,price,size,conditions"
REAL_TAPE = Path(__file__).parents[3] / ".." / "shared" / "tape" / "us-equities-20131007.csv.gz"


@pytest.mark.parametrize("name", ["tape.csv", "tape.csv.gz"])
def test_a_written_tape_reads_back_equal(tmp_path: Path, name: str) -> None:
    """A written tape is read back trade for trade, over many blocks, gzipped or not."""
    trades = list(generate(1, 20))
    assert write_tape(trades, tmp_path / name) == len(trades) > 10_000
    assert list(read_trades(tmp_path / name)) == trades
    assert (tmp_path / name).read_bytes()[:2] == (b"\x1f\x8b" if name.endswith("gz") else b"ts")


def test_the_same_trades_give_the_same_bytes(tmp_path: Path) -> None:
    """A gzipped tape depends only on its trades, not on its name or the time."""
    for name in ("one.csv.gz", "other.csv.gz"):
        write_tape(generate(2, 1), tmp_path / name)
    assert (tmp_path / "one.csv.gz").read_bytes() == (tmp_path / "other.csv.gz").read_bytes()


numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,12})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
texts = st.text(st.characters(blacklist_characters=',"\r\n;', blacklist_categories=["Cs"]), min_size=1, max_size=8)
trades = st.builds(
    Trade,
    st.integers(-(10**12), 10**14).map(lambda ms: ms * 1_000_000),
    texts,
    numbers,
    numbers,
    st.lists(texts, max_size=3).map(tuple),
)


@pytest.mark.slow
@given(st.lists(trades, max_size=20))
def test_any_trade_survives_the_file(tmp_path_factory: pytest.TempPathFactory, some: list[Trade]) -> None:
    """Any symbol, any digits of a JSON number, any conditions come back unchanged."""
    path = tmp_path_factory.mktemp("tape") / "tape.csv"
    write_tape(some, path)
    assert list(read_trades(path)) == some


def test_an_archived_parquet_file_is_a_tape(tmp_path: Path) -> None:
    """The archive's columns are found by name, with other columns and with dictionary texts."""
    trades = list(generate(3, 5))
    rows = [row_of(trade) for trade in trades]
    table = pa.table(
        {
            "connection": pa.array([1] * len(rows), pa.int32()),
            "recv_seq": pa.array(range(1, len(rows) + 1), pa.int64()),
            "ts_recv": pa.array([trade.ts_event_ns + 999 for trade in trades], pa.timestamp("ns", "UTC")),
            "ts_event": pa.array([trade.ts_event_ns for trade in trades], pa.timestamp("ns", "UTC")),
            "symbol": pa.array([row[1] for row in rows]).dictionary_encode(),
            "price": [row[2] for row in rows],
            "size": [row[3] for row in rows],
            "conditions": [row[4] or None for row in rows],
        }
    )
    pq.write_table(table, tmp_path / "batch.parquet", row_group_size=1000)
    assert list(read_trades(tmp_path / "batch.parquet")) == trades


def test_further_columns_are_passed_over(tmp_path: Path) -> None:
    """A tape may have extra columns, either kind of line ending, and no final one."""
    path = tmp_path / "tape.csv"
    path.write_bytes(f"{HEADER},exchange\r\n5,SPY,167.410,1e2,13;29,P\r\n6,IBM,1,2,,".encode())
    rows = [row for block in read_tape(path) for row in block]
    assert rows == [(5, "SPY", "167.410", "1e2", "13;29"), (6, "IBM", "1", "2", "")]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("1,SPY,167.41,100", "'1,SPY,167.41,100'"),
        ("1,SPY,167.41,100,13,P", "13,P"),
        ("1.5,SPY,1,1,", "1.5"),
        ("x,SPY,1,1,", "x,SPY"),
        ("1,,1,1,", "1,,1"),
        ("1,SPY,NaN,1,", "NaN"),
        ("1,SPY,01.5,1,", "01.5"),
        ("1,SPY,1.,1,", "1.,1"),
        ("1,SPY,1,,", "1,,"),
        ('1,SP"Y,1,1,', 'SP"Y'),
        ("١,SPY,1,1,", "١"),
        ("", "''"),
        ("\ud8ff", "not UTF-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, found: str) -> None:
    """The error is one line with the file, the line number, and the offending text."""
    good = ["1,SPY,1,1,"] * 30_000
    path = tmp_path / "tape.csv"
    path.write_bytes("\n".join([HEADER, *good, line, *good, ""]).encode("utf-8", "surrogatepass"))
    with pytest.raises(TerminalError) as caught:
        list(read_tape(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: line 30002: ")
    assert found in message
    assert "\n" not in message


def _cut_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress(f"{HEADER}\n".encode() + b"1,SPY,1,1,\n" * 99)[:-12])


def _damaged_gzip(path: Path) -> None:
    content = bytearray(gzip.compress("\n".join([HEADER, *(f"{n},SPY,{n},1," for n in range(999))]).encode()))
    content[200] ^= 0xFF
    path.write_bytes(content)


def _no_price_column(path: Path) -> None:
    pq.write_table(pa.table({"ts_event": [1], "symbol": ["A"]}), path)


def _no_json_number(path: Path) -> None:
    row = {"ts_event": [1], "symbol": ["A"], "price": ["NaN"], "size": ["1"], "conditions": [""]}
    pq.write_table(pa.table(row), path)


def _absent_symbol(path: Path) -> None:
    row = {"ts_event": [1], "symbol": pa.array([None], pa.string()), "price": ["1"], "size": ["1"], "conditions": [""]}
    pq.write_table(pa.table(row), path)


def _damaged_parquet(path: Path) -> None:
    row = {"ts_event": [1], "symbol": ["A"], "price": ["1"], "size": ["1"], "conditions": [""]}
    pq.write_table(pa.table(row), path)
    path.write_bytes(path.read_bytes()[:-20])


BAD = {
    "absent": lambda path: None,
    "a folder": Path.mkdir,
    "empty": lambda path: path.write_bytes(b""),
    "another header": lambda path: path.write_text("time,symbol\n1,A\n"),
    "no line end": lambda path: path.write_bytes(HEADER.encode() + b"\n" + b"1" * 3_000_000),
    "cut gzip": _cut_gzip,
    "damaged gzip": _damaged_gzip,
    "Parquet without prices": _no_price_column,
    "Parquet with a price that is no number": _no_json_number,
    "Parquet without a symbol": _absent_symbol,
    "damaged Parquet": _damaged_parquet,
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_tape_is_refused(tmp_path: Path, what: str) -> None:
    """Every file that is not a complete tape raises a one-line error that names it."""
    path = tmp_path / "tape"
    BAD[what](path)
    with pytest.raises(TerminalError) as caught:
        list(read_tape(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not REAL_TAPE.exists(), reason="the real tape is not on this machine")
def test_the_real_tape_reads_whole() -> None:
    """The real day has as many rows as documented, with the digits in the file."""
    rows = [row for block in read_tape(REAL_TAPE) for row in block]
    with gzip.open(REAL_TAPE, "rt") as file:
        next(file)
        assert all(",".join(map(str, row)) == line.rpartition(",")[0] for row, line in zip(rows, file, strict=True))
    assert len(rows) == 388_417
