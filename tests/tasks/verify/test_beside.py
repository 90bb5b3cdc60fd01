"""`tape verify` gives correct results while an archive run moves batches."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tasks.compress.parquet import compress
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.validate.schema import Limits
from tasks.validate.split import split
from tasks.verify.laws import verify

T = 1_795_530_600_000_000_000


@pytest.mark.slow
def test_what_moves_while_it_is_judged_is_no_broken_law(store: Store, sealed_batch: Callable[..., Any]) -> None:
    """While batches move to their next stage, nothing is reported as waiting or lost."""
    names = [
        sealed_batch(
            [b"1,%d,%d,%d,A,1,1,\n" % (number + 1, T + number, T)],
            name=BatchName("20261124T143000Z-9f3c01ab", 0, number),
            per_symbol={"A": 1},
        )
        for number in range(12)
    ]

    def archive() -> None:
        for name in names:
            split(store, name, Limits(None, None))
            compress(store, name)

    worker = threading.Thread(target=archive)
    worker.start()
    while not store.manifests():
        assert worker.is_alive()
    laws = {each.law for each in verify(store).broken}
    worker.join()
    assert laws == {"recorded"}
