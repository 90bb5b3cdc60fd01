"""The split puts every line unchanged into one part, and gives all reasons for each bad line."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.archive import quarantine
from tasks.archive.schema import CODED_SCHEMA, SCHEMA, without_missing
from tasks.errors import CorruptionError, TerminalError
from tasks.records.manifest import ConnectionRange, Report, read
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.validate.schema import Limits
from tasks.validate.split import split

SealBatch = Callable[..., BatchName]
OFF = Limits(None, None)
T = 1_764_000_000_000_000_000


def line(seq: int, **changes: object) -> bytes:
    """A good line of connection 1, received 20 ms after its event."""
    row: dict[str, Any] = {
        "connection": 1, "recv_seq": seq, "ts_recv": T + seq * 1000, "ts_event": T + seq * 1000 - 20_000_000,
        "symbol": "AAPL", "price": f"{100 + seq}.5", "size": "10", "conditions": "1;12",
    }  # fmt: skip
    return ",".join(str(value) for value in (row | changes).values()).encode() + b"\n"


def reasons(store: Store, name: BatchName) -> dict[int, set[str]]:
    """The reasons of each quarantined line."""
    path = store.quarantine / name.rejected_rows
    frames = list(quarantine.read(path)) if path.exists() else []
    return {row[0]: set(row[1].split(";")) for frame in frames for row in frame.iter_rows()}


def rejected(store: Store, name: BatchName) -> dict[int, bytes]:
    """The original text of each quarantined line, without its line feed."""
    path = store.quarantine / name.rejected_rows
    frames = list(quarantine.read(path)) if path.exists() else []
    return {row[0]: quarantine.unescape(row[2].encode()) for frame in frames for row in frame.iter_rows()}


def valid(store: Store, name: BatchName) -> pl.DataFrame:
    """The valid rows, times as integers."""
    with pa.OSFile(str(store.validated / name.validated)) as file, pa.ipc.open_stream(file) as reader:
        table = reader.read_all()
    assert table.schema.equals(without_missing(CODED_SCHEMA, ()))
    return pl.DataFrame(table.cast(without_missing(SCHEMA, ()))).with_columns(
        pl.col("ts_recv", "ts_event").to_physical()
    )


def valid_lines(store: Store, name: BatchName) -> list[bytes]:
    """The valid rows as journal lines, formatted in a slow and obvious way."""
    rows = valid(store, name).drop("resent").iter_rows()
    return [",".join(str(value) for value in row).encode() for row in rows]


def test_good_lines_are_all_valid(store: Store, sealed_batch: SealBatch) -> None:
    """A batch of good lines gives as many valid rows and no quarantine, and keeps its seal."""
    name = sealed_batch([line(seq) for seq in range(1, 6)])
    seal = (store.sealed / name.seal).read_bytes()
    report = split(store, name, Limits(10**9, 10**9))
    assert (report.rows, report.valid, report.quarantined, report.reasons) == (5, 5, 0, {})
    assert report.lag_ms == {"p50": 20.0, "p90": 20.0, "p99": 20.0, "max": 20.0}
    assert report.per_symbol == {"AAPL": 5}
    assert (store.validated / name.seal).read_bytes() == seal
    assert not list(store.sealed.iterdir())
    assert not list(store.quarantine.iterdir())


BAD = [
    ({"price": "0"}, {"price"}),
    ({"price": "-1"}, {"price"}),
    ({"price": "nan"}, {"price"}),
    ({"price": "inf"}, {"price"}),
    ({"price": "1e400"}, {"price"}),
    ({"price": ""}, {"price"}),
    ({"price": " 1"}, {"price"}),
    ({"size": "-1"}, {"size"}),
    ({"size": "NaN"}, {"size"}),
    ({"size": "x"}, {"size"}),
    ({"symbol": "MSFT"}, {"symbol"}),
    ({"symbol": ""}, {"symbol"}),
    ({"symbol": 'A"APL'}, {"symbol", "text"}),
    ({"conditions": "1\r"}, {"text"}),
    ({"conditions": "\x00"}, {"text"}),
    ({"conditions": "1,2"}, {"fields"}),
    ({"connection": "+1"}, {"connection"}),
    ({"connection": 9}, {"connection"}),
    ({"connection": 5_000_000_000}, {"connection"}),
    ({"recv_seq": "03"}, {"recv_seq"}),
    ({"recv_seq": "x"}, {"recv_seq"}),
    ({"recv_seq": "3.0"}, {"recv_seq"}),
    ({"recv_seq": 0}, {"recv_seq"}),
    ({"recv_seq": 10**30}, {"recv_seq"}),
    ({"recv_seq": 900}, {"recv_seq_order"}),
    ({"recv_seq": 2}, {"recv_seq_order"}),
    ({"recv_seq": 4}, {"recv_seq_order"}),
    ({"ts_recv": "-5"}, {"ts_recv", "event_ahead"}),
    ({"ts_recv": T, "ts_event": T}, {"ts_recv_order"}),
    ({"ts_recv": T + 10**8, "ts_event": T + 10**8}, {"ts_recv_order"}),
    ({"ts_event": T + 2 * 10**9}, {"event_ahead"}),
    ({"ts_event": T - 2 * 10**9}, {"event_age"}),
    ({"ts_event": "12a"}, {"ts_event", "event_age", "event_ahead"}),
    ({"price": "0", "size": "-1", "symbol": "x"}, {"price", "size", "symbol"}),
]


@pytest.mark.parametrize(
    ("changes", "expected"),
    BAD,
    ids=lambda value: "+".join(sorted(value)) if isinstance(value, set) else str(value)[:40],
)
def test_one_bad_line_spoils_only_itself(
    store: Store, sealed_batch: SealBatch, changes: dict[str, object], expected: set[str]
) -> None:
    """A bad line among good ones is quarantined alone and unchanged, with all of its reasons."""
    lines = [line(seq, **changes) if seq == 3 else line(seq) for seq in range(1, 7)]
    known = ConnectionRange(connection=1, rows=6, first_seq=1, last_seq=6, first_recv_ns=T, last_recv_ns=T)
    name = sealed_batch(lines, symbols=["AAPL"], connections=[known])
    report = split(store, name, Limits(10**9, 10**9))
    assert reasons(store, name) == {3: expected}
    assert rejected(store, name) == {3: lines[2][:-1]}
    assert report.reasons == dict.fromkeys(sorted(expected), 1)
    assert valid_lines(store, name) == [each[:-1] for each in lines[:2] + lines[3:]]


@pytest.mark.parametrize(
    "text", [b"\n", b"1,2\n", b"\xff\xfe\x00\n", b",,,,,,,\n", b'"\\\\n\n', b"\r\n", b"a" * 70_000 + b"\n"]
)
@pytest.mark.parametrize("place", [0, 2, 4])
def test_lines_that_are_no_trades(store: Store, sealed_batch: SealBatch, text: bytes, place: int) -> None:
    """Garbage in place of any line is kept byte for byte, and the other lines are valid."""
    lines = [line(seq) for seq in range(1, 6)]
    lines[place] = text
    known = ConnectionRange(connection=1, rows=5, first_seq=1, last_seq=5, first_recv_ns=T, last_recv_ns=T)
    name = sealed_batch(lines, symbols=["AAPL"], connections=[known])
    report = split(store, name, OFF)
    assert (report.valid, report.quarantined) == (4, 1)
    assert rejected(store, name) == {place + 1: text[:-1]}
    assert "fields" in reasons(store, name)[place + 1] or text == b",,,,,,,\n"


def test_a_missing_trade_is_found(store: Store, sealed_batch: SealBatch) -> None:
    """A hole in recv_seq marks the first line after it, and only in a session with a single lane."""
    lines = [line(seq) for seq in (1, 2, 5, 6)]
    name = sealed_batch(lines)
    split(store, name, OFF)
    assert reasons(store, name) == {3: {"recv_seq_gap"}}
    other = sealed_batch(lines, lanes=2, name=BatchName(name.session, 1, 0))
    assert split(store, other, OFF).quarantined == 0


def test_an_unreadable_line_is_no_hole(store: Store, sealed_batch: SealBatch) -> None:
    """Lines with unreadable recv_seq account for missing numbers; later lines are not blamed."""
    lines = [line(1), line(2, recv_seq="?"), b"\n", line(4), line(7)]
    name = sealed_batch(lines)
    split(store, name, OFF)
    found = reasons(store, name)
    assert set(found) == {2, 3, 5}
    assert found[5] == {"recv_seq_gap"}


def test_order_goes_on_from_the_batch_before(store: Store, sealed_batch: SealBatch) -> None:
    """Numbers and receive times that do not follow the connection's last ones before the batch are rejected."""
    known = ConnectionRange(
        connection=1, rows=3, first_seq=11, last_seq=13, first_recv_ns=T, last_recv_ns=T, before_seq=10,
        before_recv_ns=T + 12_000,
    )  # fmt: skip
    name = sealed_batch([line(10), line(11), line(12), line(13)], connections=[known])
    split(store, name, OFF)
    assert reasons(store, name) == {1: {"recv_seq_order", "ts_recv_order"}, 2: {"ts_recv_order"}}


def test_a_second_connection_counts_for_itself(store: Store, sealed_batch: SealBatch) -> None:
    """A new connection begins at 1 again; a line of the old one after it is out of order."""
    lines = [line(1), line(2), *(line(seq, connection=2) for seq in (1, 2)), line(3), line(3, connection=2)]
    name = sealed_batch(lines)
    split(store, name, OFF)
    assert reasons(store, name) == {5: {"recv_seq_order"}}


def test_late_prints_are_counted(store: Store, sealed_batch: SealBatch) -> None:
    """Equal prints are valid, and an event time before an earlier one of its symbol is only counted."""
    same = {"ts_event": T, "price": "1.5"}
    lines = [line(1, **same), line(2, **same), line(3, price="1.50", ts_event=T), line(4, symbol="IBM", ts_event=5)]
    lines += [line(5, ts_event=T - 1), line(6, **same), line(7, **same, size="-1")]
    name = sealed_batch(lines)
    report = split(store, name, OFF)
    assert not valid(store, name)["resent"].any()
    # IBM's is the one that comes late.
    assert (report.resent, report.out_of_order, report.late, report.valid) == (0, 1, 1, 6)


def test_slices_carry_marks_and_order(store: Store, sealed_batch: SealBatch) -> None:
    """A batch gives the same rows and counts in slices of a line or two as in one slice."""
    lines = [line(1 + seq, ts_event=T + seq % 7, price="1", symbol="AB"[seq % 2]) for seq in range(60)]
    lines[20] = b"rubbish\n"
    name = sealed_batch(lines)
    shutil.copytree(store.sealed, store.root / "copy")
    whole = split(store, name, OFF), valid(store, name)
    shutil.rmtree(store.validated)
    shutil.rmtree(store.sealed)
    (store.root / "copy").rename(store.sealed)
    cut = split(store, name, replace(OFF, slice_bytes=100))
    cut = replace(cut, validated_sha256=whole[0].validated_sha256)  # How it is cut shows there.
    assert (cut, True) == (whole[0], valid(store, name).equals(whole[1]))
    assert whole[0].resent_rows > 40
    with pa.OSFile(str(store.validated / name.validated)) as file, pa.ipc.open_stream(file) as reader:
        assert len(list(reader)) > 10


def test_no_batch(store: Store) -> None:
    """The name of a batch that does not exist raises an error that names the file."""
    with pytest.raises(TerminalError, match=r"no such sealed batch"):
        split(store, BatchName("20261124T143000Z-9f3c01ab", 0, 7), OFF)


@pytest.mark.parametrize("count", [0, 1])
def test_the_smallest_batches(store: Store, sealed_batch: SealBatch, count: int) -> None:
    """A batch with one row or none is split like any other."""
    name = sealed_batch([line(1)] * count)
    report = split(store, name, OFF)
    assert (report.rows, report.valid, valid(store, name).height) == (count, count, count)


@pytest.mark.parametrize("damage", [lambda text: text[:-1], lambda text: text.replace(b"101.5", b"101.6")])
def test_a_damaged_journal_moves_nothing(
    store: Store, sealed_batch: SealBatch, damage: Callable[[bytes], bytes]
) -> None:
    """A journal that does not match its seal is named, and no file changes."""
    name = sealed_batch([line(1), line(2)])
    journal = store.sealed / name.sealed
    journal.write_bytes(damage(journal.read_bytes()))
    before = {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    with pytest.raises(CorruptionError, match=name.sealed):
        split(store, name, OFF)
    assert {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("header", [b"", b"a,b\n", b"\x00" * 200])
def test_what_is_no_journal_goes_to_quarantine_whole(
    store: Store, sealed_batch: SealBatch, header: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A sealed file without a journal's header is quarantined whole, raises an alarm, and its report balances."""
    name = sealed_batch([line(1), line(2)], header=header)
    content = (store.sealed / name.sealed).read_bytes()
    report = split(store, name, OFF)
    assert (report.rows, report.valid, report.quarantined) == (2, 0, 2)
    assert report.structural
    assert (store.quarantine / name.rejected_batch).read_bytes() == content
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert not list(store.sealed.iterdir())


def test_the_environment_cannot_open_the_gate(
    store: Store, sealed_batch: SealBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pandera's environment switches cannot make bad rows pass."""
    from pandera.config import ValidationDepth, config_context

    name = sealed_batch([line(1), line(2, price="-1")])
    with config_context(validation_enabled=False, validation_depth=ValidationDepth.SCHEMA_ONLY):
        assert split(store, name, OFF).quarantined == 1


def test_a_split_again_says_the_same(store: Store, sealed_batch: SealBatch) -> None:
    """Run again after it finished, the step changes nothing and returns the same report."""
    name = sealed_batch([line(1), line(2, price="-1")])
    report = split(store, name, OFF)
    before = {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    assert split(store, name, OFF) == report == read(store.validated / name.report, Report)
    assert {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()} == before


FIELD = st.one_of(
    st.text(st.characters(blacklist_characters="\n", blacklist_categories=["Cs"]), max_size=4).map(str.encode),
    st.sampled_from([b"1", b"0", b"-1", b"nan", b"\xff", b"\\xff", b"\\", b'"', b"", b"1e5", b"+1", b"01", b" 1"]),
    st.integers(-(2**70), 2**70).map(lambda number: str(number).encode()),
)


@st.composite
def journal(draw: st.DrawFn) -> list[bytes]:
    """Lines, some with changed fields, truncated, or not from a journal at all."""
    lines = []
    for seq in range(1, draw(st.integers(0, 12)) + 1):
        text = line(seq)
        fields = text[:-1].split(b",")
        kind = draw(st.sampled_from(["good", "good", "field", "cut", "raw"]))
        if kind == "field":
            fields[draw(st.integers(0, 7))] = draw(FIELD)
        elif kind == "cut":
            fields = fields[: draw(st.integers(0, 7))] + draw(st.lists(FIELD, max_size=3))
        elif kind == "raw":
            fields = [draw(st.binary(max_size=9)).replace(b"\n", b"")]
        lines.append(b",".join(fields) + b"\n")
    return lines


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(journal(), st.booleans(), st.sampled_from([50, 400, 1 << 20]))
def test_every_line_is_in_one_part(
    sealed_batch: SealBatch, store: Store, lines: list[bytes], ended: bool, slice_bytes: int
) -> None:
    """Valid and quarantined lines together are the input, line by line, whatever the lines hold."""
    if lines and not ended:
        lines[-1] = lines[-1][:-1]
    known = ConnectionRange(connection=1, rows=1, first_seq=1, last_seq=12, first_recv_ns=T, last_recv_ns=T)
    name = sealed_batch(lines, symbols=["AAPL"], connections=[known])
    for folder in (store.validated, store.quarantine):
        shutil.rmtree(folder)
    report = split(store, name, replace(OFF, slice_bytes=slice_bytes))
    bad, good = rejected(store, name), iter(valid_lines(store, name))
    text = b"".join(lines)
    expected = text.split(b"\n")[:-1] if text.endswith(b"\n") or not text else text.split(b"\n")
    again = [bad[number] if number in bad else next(good) for number in range(1, len(expected) + 1)]
    assert again == expected
    assert next(good, None) is None
    assert report.rows == report.valid + report.quarantined == len(expected)
    assert all(reasons(store, name)[number] for number in bad)
