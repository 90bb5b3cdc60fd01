"""Each law of the ledger, by itself, finds a wrong count."""

from dataclasses import replace
from typing import Any

import pytest

from tasks.records.ledger import BatchCounts, FrameCounts, Gap, Ledger, SessionRecord, TradeCounts

WHOLE = Ledger(
    record=SessionRecord(
        session="20261124T143000Z-9f3c01ab", feed="finnhub", symbols=("A", "B"), started_ns=0, listening_ns=1,
        ended_ns=99, deadline_ns=99, outcome="failed", error="the disk is full", connections=1, frames_received=12,
        batches=(2, 1), frames_lost=2,
        gaps=(
            Gap(symbols=("A", "B"), start_ns=10, end_ns=20, reason="lost"),
            Gap(symbols=("A",), start_ns=20, end_ns=30, reason="lost"),
            Gap(symbols=("B",), start_ns=25, end_ns=40, reason="lost"),
        ),
    ),
    frames=FrameCounts(received=10, trade=7, control=2, rejected=1),
    trades=TradeCounts(
        received=30, refused=2, journalled=28, valid=20, quarantined=3, archived=14, to_validate=5, to_archive=6
    ),
    batches=BatchCounts(sealed=3, validated=2, archived=1, uploaded=1),
    upload_expected=True,
    per_symbol={"A": 9, "B": 5},
)  # fmt: skip


def forged(**changes: Any) -> Ledger:
    """Return the ledger with some counts changed: those of its parts by their names, its own directly."""
    parts = {
        name: replace(getattr(WHOLE, name), **change) if name in ("record", "frames", "trades", "batches") else change
        for name, change in changes.items()
    }
    return replace(WHOLE, **parts)


def test_a_ledger_with_all_kinds_of_counts_balances() -> None:
    """Reported lost frames, waiting batches, and adjacent gaps break no law."""
    assert WHOLE.imbalances() == []
    assert WHOLE.balances


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"record": {"frames_received": 13}}, "frames at the socket (13) ≠ read + lost (12)"),
        ({"record": {"frames_lost": 0}}, "frames at the socket (12) ≠ read + lost (10)"),
        ({"frames": {"trade": 8}}, "frames read (10) ≠ trade + control + rejected (11)"),
        ({"frames": {"control": 1}}, "frames read (10) ≠ trade + control + rejected (9)"),
        ({"frames": {"rejected": 0}}, "frames read (10) ≠ trade + control + rejected (9)"),
        ({"trades": {"received": 31}}, "trades received (31) ≠ journaled + refused (30)"),
        ({"trades": {"refused": 1}}, "trades received (30) ≠ journaled + refused (29)"),
        ({"trades": {"quarantined": 2}}, "rows journaled (28) ≠ valid + quarantined + waiting (27)"),
        ({"trades": {"to_validate": 4}}, "rows journaled (28) ≠ valid + quarantined + waiting (27)"),
        ({"trades": {"to_archive": 5}}, "rows valid (20) ≠ rows archived + waiting (19)"),
        ({"per_symbol": {"A": 9, "B": 4}}, "rows archived (14) ≠ sum over symbols (13)"),
        ({"batches": {"sealed": 2}}, "batches sealed (3) ≠ batches found (2)"),
        ({"record": {"batches": (2, 2)}}, "batches sealed (4) ≠ batches found (3)"),
        ({"batches": {"uploaded": 0}}, "batches archived (1) ≠ batches uploaded (0)"),
    ],
)
def test_each_law_finds_its_count(changes: dict[str, Any], says: str) -> None:
    """One wrong count breaks one law, which shows both counts."""
    ledger = forged(**changes)
    assert ledger.imbalances() == [says]
    assert not ledger.balances


@pytest.mark.parametrize(
    "gap",
    [
        Gap(symbols=("A", "B"), start_ns=19, end_ns=20, reason="lost"),
        Gap(symbols=("B",), start_ns=39, end_ns=50, reason="lost"),
        Gap(symbols=("A",), start_ns=0, end_ns=None, reason="lost"),
    ],
    ids=["within another", "at the end of another", "without an end"],
)
def test_gaps_of_one_symbol_that_overlap_break_a_law(gap: Gap) -> None:
    """A symbol in two gaps at once breaks a law, because it would count as lost twice."""
    (said,) = forged(record={"gaps": (gap, *WHOLE.record.gaps)}).imbalances()
    assert said.startswith("gaps that overlap (")


def test_a_batch_that_is_not_uploaded_is_a_matter_of_a_bucket_alone() -> None:
    """If no upload is expected, a batch that is only local breaks no law."""
    assert forged(batches={"uploaded": 0}, upload_expected=False).balances


def test_gaps_are_compared_in_order_of_time() -> None:
    """Separate gaps break no law in any order, and each overlap is counted."""
    assert forged(record={"gaps": WHOLE.record.gaps[::-1]}).balances
    spans = ((0, 90), (10, 20), (30, 40))
    gaps = tuple(Gap(symbols=("A",), start_ns=start, end_ns=end, reason="lost") for start, end in spans)
    assert forged(record={"gaps": gaps}).imbalances() == ["gaps that overlap (2) ≠ none (0)"]


def test_the_words_of_a_law_name_what_waits_only_where_something_waits() -> None:
    """Without waiting batches, the law is that of a finished session."""
    waiting, done = WHOLE.laws(), forged(trades={"to_validate": 0, "to_archive": 0}).laws()
    assert [each[2] for each in waiting[3:5]] == ["valid + quarantined + waiting", "rows archived + waiting"]
    assert [each[2] for each in done[3:5]] == ["valid + quarantined", "rows archived"]


def test_counts_of_frames_add_up() -> None:
    """Each kind by itself."""
    one = FrameCounts(received=10, trade=7, control=2, rejected=1)
    assert one + one + FrameCounts(rejected=5) == FrameCounts(received=20, trade=14, control=4, rejected=7)
