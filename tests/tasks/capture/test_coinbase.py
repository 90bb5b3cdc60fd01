"""A feed that differs from the first one in every important way is recorded by the same recorder."""

import json
import threading
import time
from dataclasses import replace
from typing import Any

from faults import TEXT, Close, Frame, Raw, Reset, Signal, Stall, StartServer, Text
from recording import RESET, WITHIN_S, Answered, Until, Wait, sealed_rows

from tasks.capture.clock import Clock
from tasks.capture.listener import Backoff
from tasks.capture.session import Session
from tasks.compress.parquet import compress
from tasks.records.coverage import NOT_ACKNOWLEDGED
from tasks.records.ledger import Ledger, SessionRecord
from tasks.records.manifest import Manifest, encode, read
from tasks.records.names import BatchName
from tasks.records.requests import change
from tasks.records.trade import NS_PER_S
from tasks.storage.store import Store, write_whole
from tasks.validate.schema import Limits
from tasks.validate.split import split
from tasks.verify.account import ledger_for
from tasks.verify.laws import verify

BTC, ETH = "BTC-USD", "ETH-USD"


def said(kind: str, **fields: Any) -> Text:
    return Text(json.dumps({"type": kind, **fields}))


def match(number: int, product: str = BTC, kind: str = "match") -> Text:
    return said(
        kind, trade_id=number, sequence=7 * number, time="2026-11-24T14:30:00.123456Z", product_id=product,
        size="0.10", price=f"{number}.50", side="sell",
    )  # fmt: skip


def acknowledged(*products: str) -> Text:
    return said("subscriptions", channels=[{"name": "matches", "product_ids": products}])


def heartbeat(number: int) -> Text:
    return said("heartbeat", sequence=1, last_trade_id=number, product_id=BTC, time="2026-11-24T14:30:01.000000Z")


def archived(store: Store, record: SessionRecord) -> Ledger:
    """Archive all batches of the session, assert every law of `verify`, and return the ledger."""
    for seal in sorted(store.sealed.glob("*.seal.json")):
        name = BatchName.parse(seal.name)
        split(store, name, Limits(None, None))
        compress(store, name)
    assert verify(store).broken == ()
    return ledger_for(store, record.session)


def numbers(store: Store, record: SessionRecord) -> list[str]:
    return [row.trade.price.removesuffix(".50") for row in sealed_rows(store, record.session)]


def ask_for(recording: Any, *symbols: str) -> None:
    """Change the session's list and wait until its recorder follows."""
    change(recording.request.folder, lambda _now: symbols, time.time_ns())
    recording.when(lambda status: {*status.symbols} == {*symbols})


def read_after_the_loss(session: Any, url: str, store: Store, disk_goes: threading.Event) -> SessionRecord:
    """Record three trades; the disk accepts what the first connection brought only once that is lost."""
    pause = Backoff(first_s=1.0, uniform=lambda _least, _most: 1.0)
    recording = session(url, (BTC,), feed="coinbase", root=store.root, backoff=pause)
    recording.when(lambda status: status.state == "reconnecting")
    disk_goes.set()
    recording.when(lambda status: status.trades == 3)
    record: SessionRecord = recording.end()
    return record


def test_every_match_is_a_row_and_what_the_feed_left_out_is_a_gap(
    store: Store, fault_server: StartServer, session: Any
) -> None:
    """Numbers count from the match before the subscription; two missing ones are in a gap, and the ledger balances."""
    script = [
        Until("subscribe"), match(9, kind="last_match"), acknowledged(BTC), match(10), match(11), match(14),
        heartbeat(0), Wait("unsubscribe"),
    ]  # fmt: skip
    recording = session(fault_server(script).url, (BTC,), feed="coinbase", root=store.root)
    recording.when(lambda status: status.trades == 3)
    record = recording.end()
    assert numbers(store, record) == ["10", "11", "14"]
    assert [gap.reason for gap in record.gaps] == [NOT_ACKNOWLEDGED, "trade numbers 12 to 13 are missing"]
    first, second, third = (row.ts_recv_ns for row in sealed_rows(store, record.session))
    assert (record.gaps[0].end_ns or 0) <= first
    assert second <= record.gaps[1].start_ns < (record.gaps[1].end_ns or 0) <= max(third, second + 1)
    ledger = archived(store, record)
    assert (ledger.missing_ids, ledger.imbalances()) == ((2, 2), [])


def test_a_heartbeat_tells_that_the_last_trades_did_not_come(
    store: Store, fault_server: StartServer, session: Any
) -> None:
    """If no later trade reveals the missing ones, a heartbeat's number does."""
    script = [Until("subscribe"), acknowledged(BTC), match(1), heartbeat(1), heartbeat(3), Answered(), heartbeat(3)]
    recording = session(fault_server([*script, Wait("unsubscribe")]).url, (BTC,), feed="coinbase", root=store.root)
    recording.when(lambda status: status.gaps == 2)
    assert recording.end().gaps[1].reason == "trade numbers 2 to 3 are missing"


def test_numbers_missed_while_there_was_no_connection_lie_in_its_gap(
    store: Store, fault_server: StartServer, session: Any
) -> None:
    """The gap of an outage lasts until the new acknowledgment and contains the missing numbers."""
    server = fault_server(
        [Until("subscribe"), acknowledged(BTC), match(1), match(2), Answered(), Reset()],
        [Until("subscribe"), match(5, kind="last_match"), acknowledged(BTC), match(6), Wait("unsubscribe")],
    )
    recording = session(server.url, (BTC,), feed="coinbase", root=store.root)
    recording.when(lambda status: status.trades == 3)
    record = recording.end()
    assert len(record.gaps) == 2
    outage = record.gaps[1]
    rows = sealed_rows(store, record.session)
    assert (outage.end_ns or 0) <= rows[2].ts_recv_ns
    assert "trade numbers" not in outage.reason
    ledger = archived(store, record)
    assert (ledger.missing_ids, ledger.imbalances()) == ((3, 3), [])


def test_a_lost_gap_breaks_the_law_of_missing_numbers(store: Store, fault_server: StartServer, session: Any) -> None:
    """If the gap of a missing number were not in the record, the ledger would not balance."""
    script = [Until("subscribe"), acknowledged(BTC), match(1), match(3), Wait("unsubscribe")]
    recording = session(fault_server(script).url, (BTC,), feed="coinbase", root=store.root)
    recording.when(lambda status: status.trades == 2)
    record = recording.end()
    assert archived(store, record).balances
    write_whole(store.sessions / record.session / "session.json", encode(replace(record, gaps=record.gaps[:1])))
    assert ledger_for(store, record.session).imbalances() == ["trade numbers missing (1) ≠ missing in named gaps (0)"]


def test_a_report_that_hides_a_missing_number_is_found(store: Store, fault_server: StartServer, session: Any) -> None:
    """Verification reads the numbers again from the journal rebuilt from the archive."""
    script = [Until("subscribe"), acknowledged(BTC), match(1), match(3), Wait("unsubscribe")]
    recording = session(fault_server(script).url, (BTC,), feed="coinbase", root=store.root)
    recording.when(lambda status: status.trades == 2)
    archived(store, recording.end())
    path = next(store.archive.rglob("*.manifest.json"))
    manifest = read(path, Manifest)
    write_whole(path, encode(replace(manifest, report=replace(manifest.report, missing_ids=()))))
    assert "trade_ids" in {each.law for each in verify(store).broken}


def test_an_unknown_product_costs_the_others_nothing(store: Store, fault_server: StartServer, session: Any) -> None:
    """An unknown product is refused by name with a gap to the end; the others are requested again, one by one."""
    error = said("error", message="Failed to subscribe", reason="FOO-USD is not a valid product")
    script = [Wait("subscribe", 3), error, Wait("subscribe", 5), acknowledged(BTC, ETH), match(1), match(1, ETH)]
    server = fault_server([*script, Wait("unsubscribe")])
    recording = session(server.url, (BTC, "FOO-USD", ETH), feed="coinbase", root=store.root)
    recording.when(lambda status: status.trades == 2 and status.refused_symbols == ("FOO-USD",))
    record = recording.end()
    assert (record.refused, record.never_heard) == (("FOO-USD",), ("FOO-USD",))
    assert [gap.end_ns for gap in record.gaps if "FOO-USD" in gap.symbols][-1] == record.ended_ns
    assert record.vendor_errors == {"Failed to subscribe: FOO-USD is not a valid product": 1}


def test_a_subscription_that_is_never_acknowledged_is_a_gap_to_the_end(
    store: Store, fault_server: StartServer, session: Any
) -> None:
    """A request that was sent proves nothing: without an acknowledgment the gap lasts to the end."""
    recording = session(fault_server([Until("subscribe"), Close(1000)]).url, (BTC,), feed="coinbase", root=store.root)
    recording.when(lambda status: status.open_gaps)
    record = recording.end()
    assert isinstance(recording.session, Session)
    assert {symbol for gap in record.gaps for symbol in gap.symbols} == {BTC}
    assert max(gap.end_ns or 0 for gap in record.gaps) == record.ended_ns


def test_an_acknowledgement_that_is_read_late_does_not_end_the_gap_of_the_loss(
    store: Store, fault_server: StartServer, session: Any, disk_goes: threading.Event
) -> None:
    """If a slow disk delays writing past the loss, the time after the loss is still a gap."""
    server = fault_server(
        [Until("subscribe"), match(1), Answered(b"1"), acknowledged(BTC), match(2), Answered(b"2"), Reset()],
        [Until("subscribe"), acknowledged(BTC), match(3), Wait("unsubscribe")],
    )
    record = read_after_the_loss(session, server.url, store, disk_goes)
    rows = sealed_rows(store, record.session)
    assert [gap.reason for gap in record.gaps] == [NOT_ACKNOWLEDGED, RESET]
    assert rows[1].ts_recv_ns <= record.gaps[1].start_ns <= rows[2].ts_recv_ns - NS_PER_S
    assert (record.gaps[1].end_ns or 0) <= rows[2].ts_recv_ns


def test_an_acknowledgement_counts_though_the_wall_clock_was_put_back(
    store: Store, fault_server: StartServer, session: Any
) -> None:
    """By the clock, the gap of the outage began after its end: it has no length and does not stay open."""
    ahead_ns = [0]
    step, goes = Signal(threading.Event()), threading.Event()
    server = fault_server(
        [Until("subscribe"), acknowledged(BTC), match(1), Answered(), step, Stall(goes), Reset()],
        [Until("subscribe"), acknowledged(BTC), match(2), Wait("unsubscribe")],
    )
    clock = Clock(wall_ns=lambda: time.time_ns() + ahead_ns[0])
    recording = session(server.url, (BTC,), feed="coinbase", root=store.root, clock=clock)
    step.event.wait(WITHIN_S)
    recording.when(lambda status: status.trades == 1)
    ahead_ns[0] -= 30 * NS_PER_S
    goes.set()
    recording.when(lambda status: status.trades == 2 and not status.open_gaps)
    assert all(gap.end_ns is not None and gap.end_ns <= gap.start_ns + NS_PER_S for gap in recording.end().gaps)


def test_a_loss_after_an_outage_is_not_laid_to_the_outage(
    store: Store, fault_server: StartServer, session: Any
) -> None:
    """Heartbeats on the new connection reported nothing missing; what is missing later has a gap of its own."""
    server = fault_server(
        [Until("subscribe"), acknowledged(BTC), match(1), Answered(), Reset()],
        [
            Until("subscribe"), acknowledged(BTC), Answered(b"1"), heartbeat(1), Answered(b"2"), heartbeat(1),
            Answered(b"3"), match(4), Wait("unsubscribe"),
        ],
    )  # fmt: skip
    recording = session(server.url, (BTC,), feed="coinbase", root=store.root)
    recording.when(lambda status: status.trades == 2)
    assert [gap.reason for gap in recording.end().gaps][1:] == [RESET, "trade numbers 2 to 3 are missing"]


def test_the_match_before_a_subscription_counts_whatever_came_with_it(
    store: Store, fault_server: StartServer, session: Any
) -> None:
    """The number before the subscription counts even if the next match arrives in the same read."""
    together = b"".join(
        bytes(Frame(TEXT, each.text.encode())) for each in (match(9, kind="last_match"), acknowledged(BTC), match(12))
    )
    script = [Until("subscribe"), Raw(together), Wait("unsubscribe")]
    recording = session(fault_server(script).url, (BTC,), feed="coinbase", root=store.root)
    recording.when(lambda status: status.trades == 1)
    assert "trade numbers 10 to 11 are missing" in [gap.reason for gap in recording.end().gaps]


def test_unknown_products_are_not_asked_for_again_and_again(
    store: Store, fault_server: StartServer, session: Any
) -> None:
    """However many are refused, each other symbol is requested at most once more; a refused one's gap says why."""
    symbols = tuple(f"X{n}-USD" for n in range(20))
    errors = [said("error", message="Failed to subscribe", reason=f"{each} is not a valid product") for each in symbols]
    script = [Wait("subscribe", 20), *errors[:10], Answered(), acknowledged(*symbols[10:]), Wait("unsubscribe")]
    server = fault_server(script)
    recording = session(server.url, symbols, feed="coinbase", root=store.root)
    recording.when(lambda status: status.refused_symbols == symbols[:10] and len(status.open_gaps) >= 1)
    record = recording.end()
    assert sum(heard.kind == "subscribe" for heard in server.connection(0).heard) <= 40
    assert {symbol for gap in record.gaps if gap.reason == "refused: unknown symbol" for symbol in gap.symbols} == {
        *symbols[:10]
    }


def test_what_is_asked_for_again_counts_from_its_acknowledgement_on(
    store: Store, fault_server: StartServer, session: Any
) -> None:
    """While a silent symbol's renewed subscription is not acknowledged, it has a gap."""
    script = [Until("subscribe"), acknowledged(BTC), match(1), Wait("subscribe", 2), Wait("unsubscribe", 2)]
    recording = session(fault_server(script).url, (BTC,), feed="coinbase", root=store.root)
    recording.when(lambda status: status.trades == 1 and not status.open_gaps)
    recording.session._listener.resubscribe((BTC,))
    recording.when(lambda status: status.open_gaps)
    record = recording.end()
    assert [gap.reason for gap in record.gaps] == [NOT_ACKNOWLEDGED] * 2
    assert record.gaps[1].end_ns == record.ended_ns


def test_an_acknowledgement_from_before_a_symbol_was_removed_does_not_count_for_its_return(
    store: Store, fault_server: StartServer, session: Any, disk_goes: threading.Event
) -> None:
    """An acknowledgment of a subscription that has ended does not end the gap of the new one."""
    came, again = Signal(threading.Event()), threading.Event()
    script = [
        Until("subscribe"), match(1), Answered(b"1"), acknowledged(BTC), Answered(b"2"), came, Wait("subscribe", 3),
        Stall(again), acknowledged(BTC, ETH), match(5), Wait("unsubscribe", 2),
    ]  # fmt: skip
    server = fault_server(script)
    recording = session(server.url, (BTC,), feed="coinbase", root=store.root)
    came.event.wait(WITHIN_S)
    ask_for(recording, ETH)
    Wait("unsubscribe").run(server.connection(0))
    ask_for(recording, ETH, BTC)
    Wait("subscribe", 3).run(server.connection(0))
    disk_goes.set()
    recording.when(lambda status: status.trades == 1)
    assert {symbol for gap in recording.status().open_gaps for symbol in gap.symbols} == {BTC, ETH}
    again.set()
    recording.when(lambda status: status.trades == 2 and not status.open_gaps)
    ledger = archived(store, recording.end())
    assert (ledger.missing_ids, ledger.imbalances()) == ((3, 3), [])


def test_numbers_that_are_read_late_do_not_end_the_gap_of_the_loss(
    store: Store, fault_server: StartServer, session: Any, disk_goes: threading.Event
) -> None:
    """If a slow disk delays writing past the loss, both the missing numbers and the loss have gaps."""
    server = fault_server(
        [Until("subscribe"), acknowledged(BTC), match(1), Answered(b"1"), match(4), Answered(b"2"), Reset()],
        [Until("subscribe"), acknowledged(BTC), match(5), Wait("unsubscribe")],
    )
    record = read_after_the_loss(session, server.url, store, disk_goes)
    found = {gap.reason: gap for gap in record.gaps}
    rows = sealed_rows(store, record.session)
    assert found.keys() == {NOT_ACKNOWLEDGED, "trade numbers 2 to 3 are missing", RESET}
    assert rows[1].ts_recv_ns <= found[RESET].start_ns <= rows[2].ts_recv_ns - NS_PER_S
    ledger = archived(store, record)
    assert (ledger.missing_ids, ledger.imbalances()) == ((2, 2), [])
