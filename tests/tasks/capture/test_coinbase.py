"""A feed that differs from the first in all that matters is recorded by the same recorder."""

import json
from dataclasses import replace
from typing import Any

from faults import Close, Reset, StartServer, Text
from recording import Answered, Until, Wait, sealed_rows

from tasks.capture.session import Session
from tasks.compress.parquet import compress
from tasks.records.coverage import NOT_ACKNOWLEDGED
from tasks.records.ledger import Ledger, SessionRecord
from tasks.records.manifest import Manifest, encode, read
from tasks.records.names import BatchName
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
    """The session's ledger, once all of its batches are archived; every law of `verify` holds then."""
    for seal in sorted(store.sealed.glob("*.seal.json")):
        name = BatchName.parse(seal.name)
        split(store, name, Limits(None, None))
        compress(store, name)
    assert verify(store).broken == ()
    return ledger_for(store, record.session)


def numbers(store: Store, record: SessionRecord) -> list[str]:
    return [row.trade.price.removesuffix(".50") for row in sealed_rows(store, record.session)]


def test_every_match_is_a_row_and_what_the_feed_left_out_is_a_gap(
    store: Store, fault_server: StartServer, session: Any
) -> None:
    """Numbers count from the match before the subscription; two that never came are named, and the ledger balances."""
    script = [
        Until("subscribe"), match(9, kind="last_match"), acknowledged(BTC), match(10), match(11), match(14),
        heartbeat(0), Wait("unsubscribe"),
    ]  # fmt: skip
    recording = session(fault_server(script).url, (BTC,), feed="coinbase", root=store.root)
    recording.when(lambda status: status.trades == 3)
    record = recording.end()
    assert numbers(store, record) == ["10", "11", "14"]
    assert [gap.reason for gap in record.gaps] == [NOT_ACKNOWLEDGED, "the feed did not send trades 12 to 13"]
    first, second, third = (row.ts_recv_ns for row in sealed_rows(store, record.session))
    assert (record.gaps[0].end_ns or 0) <= first
    assert second <= record.gaps[1].start_ns < (record.gaps[1].end_ns or 0) <= max(third, second + 1)
    ledger = archived(store, record)
    assert (ledger.missing_ids, ledger.imbalances()) == ((2, 2), [])


def test_a_heartbeat_tells_that_the_last_trades_did_not_come(
    store: Store, fault_server: StartServer, session: Any
) -> None:
    """No later trade shows it: the heartbeats' number is all there is."""
    script = [Until("subscribe"), acknowledged(BTC), match(1), heartbeat(1), heartbeat(3), Answered(), heartbeat(3)]
    recording = session(fault_server([*script, Wait("unsubscribe")]).url, (BTC,), feed="coinbase", root=store.root)
    recording.when(lambda status: status.gaps == 2)
    assert recording.end().gaps[1].reason == "the feed did not send trades 2 to 3"


def test_numbers_missed_while_there_was_no_connection_lie_in_its_gap(
    store: Store, fault_server: StartServer, session: Any
) -> None:
    """The gap of an outage lasts until the new subscription is acknowledged, and explains what was missed."""
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
    assert "the feed did not send" not in outage.reason
    ledger = archived(store, record)
    assert (ledger.missing_ids, ledger.imbalances()) == ((3, 3), [])


def test_a_lost_gap_breaks_the_law_of_missing_numbers(store: Store, fault_server: StartServer, session: Any) -> None:
    """Were the gap of a missing number not in the record, the ledger would not balance."""
    script = [Until("subscribe"), acknowledged(BTC), match(1), match(3), Wait("unsubscribe")]
    recording = session(fault_server(script).url, (BTC,), feed="coinbase", root=store.root)
    recording.when(lambda status: status.trades == 2)
    record = recording.end()
    assert archived(store, record).balances
    write_whole(store.sessions / record.session / "session.json", encode(replace(record, gaps=record.gaps[:1])))
    assert ledger_for(store, record.session).imbalances() == ["trade numbers missing (1) ≠ missing in named gaps (0)"]


def test_a_report_that_hides_a_missing_number_is_found(store: Store, fault_server: StartServer, session: Any) -> None:
    """The numbers are read again from the journal that the archive gives back."""
    script = [Until("subscribe"), acknowledged(BTC), match(1), match(3), Wait("unsubscribe")]
    recording = session(fault_server(script).url, (BTC,), feed="coinbase", root=store.root)
    recording.when(lambda status: status.trades == 2)
    archived(store, recording.end())
    path = next(store.archive.rglob("*.manifest.json"))
    manifest = read(path, Manifest)
    write_whole(path, encode(replace(manifest, report=replace(manifest.report, missing_ids=()))))
    assert "trade_ids" in {each.law for each in verify(store).broken}


def test_an_unknown_product_costs_the_others_nothing(store: Store, fault_server: StartServer, session: Any) -> None:
    """It is refused by name and has a gap to the end; the others of its request are asked for again, one by one."""
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
    """That the request was sent proves nothing."""
    recording = session(fault_server([Until("subscribe"), Close(1000)]).url, (BTC,), feed="coinbase", root=store.root)
    recording.when(lambda status: status.open_gaps)
    record = recording.end()
    assert isinstance(recording.session, Session)
    assert {symbol for gap in record.gaps for symbol in gap.symbols} == {BTC}
    assert max(gap.end_ns or 0 for gap in record.gaps) == record.ended_ns
