"""The ledger reveals a block lost on its way in a session in which nothing else went wrong."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from faults import FaultServer, Send, Stall, Subscribed
from recording import Answered, Recording, sealed_rows, trades, wait_for

from tasks.capture.journal import Journal
from tasks.capture.lanes import ByteQueue
from tasks.storage.store import Store
from tasks.verify.account import ledger_for

FRAMES_AT_THE_SOCKET, TRADES_RECEIVED = "frames at the socket", "trades received"


def lose_what_was_queued(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The receipts of trades that a lane takes at once are dropped."""
    take_all, taken = ByteQueue.take_all, 0

    def take(queue: ByteQueue, timeout_s: float) -> list[Any]:
        nonlocal taken
        items: list[Any] = take_all(queue, timeout_s)
        with_trades = [item for item in items if getattr(item, "symbols", ())]
        taken += bool(with_trades)
        if with_trades and taken == at:
            queue.taken(sum(item.size_bytes for item in with_trades))
            return [item for item in items if item not in with_trades]
        return items

    monkeypatch.setattr(ByteQueue, "take_all", take)


def lose_what_was_to_be_written(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The lines of one block are not written, though its trades are counted."""
    append, blocks = Journal.append, 0

    def skip(journal: Journal, receipts: Any) -> None:
        nonlocal blocks
        has_rows = any(receipt.symbols for receipt in receipts)
        blocks += has_rows
        lost = has_rows and blocks == at
        append(journal, [replace(receipt, block=b"") for receipt in receipts] if lost else receipts)

    monkeypatch.setattr(Journal, "append", skip)


@pytest.mark.parametrize(
    ("lose", "broken"),
    [
        (None, set()),
        (lose_what_was_queued, {FRAMES_AT_THE_SOCKET}),
        (lose_what_was_to_be_written, {TRADES_RECEIVED}),
    ],
)
def test_a_lost_block_of_a_healthy_session_breaks_the_first_law(
    store: Store,
    fault_server: Callable[..., FaultServer],
    session: Callable[..., Recording],
    monkeypatch: pytest.MonkeyPatch,
    lose: Callable[[pytest.MonkeyPatch, int], None] | None,
    broken: set[str],
) -> None:
    """The session ends in order and reports no loss: only counts from two places can reveal it."""
    if lose is not None:
        lose(monkeypatch, 2)
    goes = [threading.Event() for _ in range(3)]
    steps = [step for n, go in enumerate(goes) for step in (Stall(go), Send(trades(5, 5 * n)), Answered(b"%d" % n))]
    server = fault_server([Subscribed("A"), *steps, Stall(threading.Event())])
    recording = session(server.url, ("A",), root=store.root)
    for n, go in enumerate(goes):
        go.set()
        recording.when(lambda status, n=n: status.frames >= n + 2)  # The first answers the subscription.
        wait_for(lambda: recording.status().queue_bytes == 0)
    record = recording.end()
    ledger = ledger_for(store, record.session)
    laws = {what: (count, other) for what, count, _, other in ledger.laws()}
    assert (record.outcome, record.frames_lost, record.gaps) == ("stopped", 0, ())
    assert {what for what in (FRAMES_AT_THE_SOCKET, TRADES_RECEIVED) if laws[what][0] != laws[what][1]} == broken
    assert ledger.balances is (lose is None)
    assert len(sealed_rows(store, record.session)) == (15 if lose is None else 10)
