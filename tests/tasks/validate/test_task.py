"""The validation's page in the Prefect UI matches the report."""

from tasks.records.manifest import Report
from tasks.validate.task import markdown


def test_the_page_shows_counts_reasons_and_examples() -> None:
    """The page shows counts, reasons, lags, symbols, and examples; a `|` in a line does not break a table."""
    report = Report(
        rows=3, valid=2, quarantined=1, reasons={"price": 1}, examples=("line 2: price: 1,2",), resent=1,
        lag_ms={"p50": 20.5}, per_symbol={"A|B": 2},
    )  # fmt: skip
    page = markdown("20261124T143000Z-9f3c01ab-0-000000", report)
    for text in (
        "3 rows = **2 valid** + **1 quarantined**",
        "| `price` | 1 |",
        "| `p50` | 20.5 |",
        "| `A\\x7cB` | 2 |",
    ):
        assert text in page
    assert "    line 2: price: 1,2" in page
    assert "**The whole batch was rejected**: `no header`" in markdown(
        "b", Report(rows=1, valid=0, quarantined=1, structural="no header")
    )
