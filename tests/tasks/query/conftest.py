"""Two small archived sessions over two days, and two real days, through the real stages."""

import pytest
from real_days import TAPES, Print, archive, prints

from tasks.compress.parquet import compress
from tasks.records.ledger import Gap, SessionRecord
from tasks.records.manifest import encode
from tasks.records.names import BatchName
from tasks.storage.store import Store, write_whole
from tasks.validate.schema import Limits
from tasks.validate.split import split

FIRST, SECOND = "20261124T143000Z-9f3c01ab", "20261125T143000Z-00c0ffee"
DAY_NS = 86_400_000_000_000
# 2026-11-24 14:30:00 UTC
START_NS = 1_795_530_600_000_000_000
GAP = Gap(symbols=("AAPL", "SHIB"), start_ns=START_NS + 1, end_ns=START_NS + 2_000_000_003, reason="reconnect")


def lines(start_ns: int) -> list[bytes]:
    """AAPL over three minutes, a price without a trade, SHIB with many digits, and one invalid row."""
    rows = [
        (0, "AAPL", "100.10", "10"),
        (1, "AAPL", "100.30", "5"),
        (59, "AAPL", "100.2", "1"),
        (60, "AAPL", "99.9", "2.5"),
        (61, "AAPL", "555", "0"),
        (62, "SHIB", "0.000012345", "50000000000"),
        (63, "SHIB", "-1", "1"),
        (150, "AAPL", "101", "1"),
    ]
    return [
        f"1,{seq},{start_ns + s * 10**9 + 7_000_001},{start_ns + s * 10**9},{symbol},{price},{size},1;2\n".encode()
        for seq, (s, symbol, price, size) in enumerate(rows, 1)
    ]


@pytest.fixture
def archived(store: Store, sealed_batch: object) -> Store:
    """The store with a batch of each session archived; the first session has a record and a gap, the second none."""
    for day, session in enumerate((FIRST, SECOND)):
        name = BatchName(session, 0, 0)
        start_ns = START_NS + day * DAY_NS
        sealed_batch(  # type: ignore[operator]
            lines(start_ns), name=name, date=f"2026-11-{24 + day}", symbols=("AAPL", "SHIB"), opened_ns=start_ns,
            sealed_ns=start_ns + 200 * 10**9, gaps=(GAP,) if day == 0 else (),
        )  # fmt: skip
        split(store, name, Limits(None, None))
        compress(store, name)
    record = SessionRecord(
        session=FIRST, feed="finnhub", symbols=("AAPL", "SHIB"), started_ns=START_NS, listening_ns=START_NS,
        ended_ns=START_NS + 200 * 10**9, deadline_ns=START_NS + 200 * 10**9, outcome="complete", error=None,
        connections=1, frames_received=8, batches=(1,), gaps=(GAP,),
    )  # fmt: skip
    (store.sessions / FIRST).mkdir()
    write_whole(store.sessions / FIRST / "session.json", encode(record))
    return store


@pytest.fixture(scope="session")
def real_days(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two real days of two stocks, archived; skips where the tapes are not beside the repository."""
    _needs_tapes()
    return archive(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="session")
def real_prints() -> list[Print]:
    """The trades of those days, from the tapes alone."""
    _needs_tapes()
    return prints()


def _needs_tapes() -> None:
    if not TAPES.is_dir():
        pytest.skip("the real days are not beside the repository, in ../shared/tape")
