"""A request's account has its exact trades at every stage, and how much of its time was covered."""

import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import pytest

from tasks.compress.parquet import compress
from tasks.errors import CorruptionError, TerminalError
from tasks.merge.day import merge
from tasks.records.ledger import Request, SymbolChange
from tasks.records.manifest import Removed, encode
from tasks.records.names import BatchName
from tasks.records.sessions import record_of
from tasks.storage.store import Store, write_whole
from tasks.validate.schema import Limits
from tasks.validate.split import split
from tasks.verify.account import account_of

SESSION = "20261124T143000Z-9f3c01ab"
START_NS = 1_795_530_600_000_000_000
OFF = Limits(None, None)
Recorded = Callable[..., Store]


def recv_ns(connection: int, seq: int) -> int:
    """The receive time of a trade by its number; see `conftest.py`."""
    return START_NS + connection * 10**12 + seq * 1_000_000


def ask(start_ns: int, end_ns: int, symbols: tuple[str, ...] = ("AAPL", "MSFT"), **changes: Any) -> Request:
    return Request(id="r", owner="o", symbols=symbols, start_ns=start_ns, until_ns=end_ns, **changes)


def expected(request: Request, validated: Collection[int]) -> dict[str, int]:
    """Count the request's trades one by one; before validation, invalid rows count too."""
    numbers = [(1, seq) for seq in range(1, 41)] + [(2, seq) for seq in range(1, 21)]
    found = Counter(dict.fromkeys(request.symbols, 0))
    for place, (connection, seq) in enumerate(numbers):
        batch = 0 if place < 20 else 1 if place < 45 else 2
        symbol = ("AAPL", "MSFT")[seq % 2]
        inside = request.start_ns <= recv_ns(connection, seq) < request.end_ns
        if inside and symbol in request.symbols and (seq % 7 or batch not in validated):
            found[symbol] += 1
    return dict(found)


EDGES = [0, recv_ns(1, 1), recv_ns(1, 7), recv_ns(1, 21), recv_ns(2, 3), recv_ns(2, 20), recv_ns(2, 20) + 1]


def assert_exact(store: Store, validated: Collection[int] = (0, 1, 2)) -> None:
    """The account is exact for every interval between two edges, within batches and at their borders."""
    for start_ns, end_ns in itertools.combinations(EDGES, 2):
        request = ask(start_ns, end_ns)
        account = account_of(store, request)
        assert account.per_symbol == expected(request, validated), (start_ns, end_ns)
        assert account.trades == sum(account.per_symbol.values())


def test_trades_are_counted_exactly_by_their_receive_time(recorded: Recorded) -> None:
    """Archived batches entirely within, partly within, and outside the request are counted correctly."""
    assert_exact(recorded())


def test_batches_count_wherever_they_stand(recorded: Recorded) -> None:
    """Sealed, validated, and archived batches count; before validation, rows that will be rejected count too."""
    store = recorded(archived=False)
    assert_exact(store, validated=())
    for number in (0, 1):
        split(store, BatchName(SESSION, 0, number), OFF)
    compress(store, BatchName(SESSION, 0, 0))
    assert_exact(store, validated=(0, 1))


def test_a_journal_that_is_still_written_counts(recorded: Recorded) -> None:
    """Complete lines in the spool count, with or without a seal in progress; a torn line does not."""
    store, name = recorded(archived=False), BatchName(SESSION, 0, 0)
    seal = (store.sealed / name.seal).read_bytes()
    (store.sealed / name.seal).unlink()
    assert_exact(store, validated=())
    (store.spool / SESSION).mkdir()
    journal = store.spool / SESSION / name.journal
    (store.sealed / name.sealed).rename(journal)
    with journal.open("ab") as file:
        file.write(b"1,21,179")
    assert_exact(store, validated=())
    shutil.copy(journal, store.sealed / name.sealed)
    (store.sealed / name.seal).write_bytes(seal)
    assert_exact(store, validated=())


def test_rows_that_are_in_their_days_file_alone_count(recorded: Recorded) -> None:
    """A batch whose file was removed is read from its day's file; without that, an error says so."""
    store = recorded()
    day = merge(store, "finnhub", "2026-11-24")
    assert day is not None
    assert day.file is not None
    for manifest in store.manifests():
        name = BatchName.parse(manifest.name)
        gone = Removed(batch=str(name), file=name.archived, removed_ns=1, why="merged", held_in=("the day's file",))
        write_whole(manifest.with_name(name.removed), encode(gone))
        manifest.with_name(name.archived).unlink()
    assert_exact(store)
    (store.day_folder("finnhub", "2026-11-24") / day.file).unlink()
    whole = ask(0, recv_ns(3, 1))
    assert account_of(store, whole).per_symbol == expected(whole, (0, 1, 2)), "whole batches need no row"
    with pytest.raises((TerminalError, CorruptionError), match="restore"):
        account_of(store, ask(0, recv_ns(1, 7)))


def test_a_symbol_counts_while_the_request_asks_for_it(recorded: Recorded) -> None:
    """Symbols count from when they were added until they were removed; another request's symbols do not."""
    changes = (
        SymbolChange(at_ns=recv_ns(1, 10), symbol="AAPL", action="removed"),
        SymbolChange(at_ns=recv_ns(1, 30), symbol="MSFT", action="added"),
    )
    account = account_of(recorded(), ask(0, recv_ns(2, 30), ("AAPL", "GONE"), changes=changes))
    even, odd = [2, 4, 6, 8], [seq for seq in range(31, 41, 2) if seq % 7]
    of_second = [seq for seq in range(1, 21, 2) if seq % 7]
    assert account.per_symbol == {"AAPL": len(even), "GONE": 0, "MSFT": len(odd) + len(of_second)}


def test_the_coverage_is_over_all_sessions_of_the_feed(recorded: Recorded) -> None:
    """A later session covers what the first one missed; a session of another feed does not."""
    store = recorded()
    first = record_of(store.sessions / SESSION)
    assert first is not None
    request = ask(START_NS - 10**9, first.ended_ns + 3 * 10**9)
    account = account_of(store, request)
    assert [(gap.start_ns - START_NS, gap.reason) for gap in account.coverage.gaps] == [
        (-(10**9), "the recording began late"), (0, "cut"), (10**13, "the recording ended early"),
    ]  # fmt: skip
    later = replace(
        first, session="20261124T150000Z-00000001", feed="another", gaps=(), batches=(0,), ended_ns=request.end_ns,
        started_ns=first.ended_ns + 10**9, listening_ns=first.ended_ns + 10**9,
    )  # fmt: skip
    (store.sessions / later.session).mkdir()
    write_whole(store.sessions / later.session / "session.json", encode(later))
    assert account_of(store, request).coverage == account.coverage
    write_whole(store.sessions / later.session / "session.json", encode(replace(later, feed="finnhub")))
    assert account_of(store, request).coverage.share == 1 - 3 * 10**9 / (10**13 + 4 * 10**9)
