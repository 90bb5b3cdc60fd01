"""A day may be closed only once it is over in every zone in which it may still record."""

import datetime as dt
import shutil
from pathlib import Path

import pytest

from flows.close_days import anything_to_close
from flows.settings import load_settings
from tasks.storage.store import Store


@pytest.mark.parametrize(
    ("calendar", "now", "last"),
    [
        ("XNYS", "2026-11-25T00:00:00", "2026-11-23"),  # 19:00 of the 24th in New York
        ("XNYS", "2026-11-25T04:59:59", "2026-11-23"),
        ("XNYS", "2026-11-25T05:00:00", "2026-11-24"),
        ("XNZE", "2026-11-24T11:00:00", "2026-11-23"),  # 00:00 of the 25th in Auckland
        ("XNZE", "2026-11-24T23:59:59", "2026-11-23"),
        ("XNZE", "2026-11-25T00:00:00", "2026-11-24"),
        ("XLON", "2026-11-24T23:59:59", "2026-11-23"),
        ("XLON", "2026-11-25T00:00:00", "2026-11-24"),
    ],
)
def test_a_day_that_may_still_record_is_not_closed(tmp_path: Path, calendar: str, now: str, last: str) -> None:
    """Wherever the exchange's clock is, a day waits until it is over there and in UTC, and no longer."""
    settings = load_settings(data_dir=tmp_path, calendar=calendar)
    store = Store(tmp_path).prepare()
    now_ns = int(dt.datetime.fromisoformat(now).replace(tzinfo=dt.UTC).timestamp()) * 10**9
    closed = []
    for date in ("2026-11-22", "2026-11-23", "2026-11-24", "2026-11-25", "2026-11-26"):
        folder = store.archive / "feed=finnhub" / f"date={date}"
        folder.mkdir(parents=True)
        if anything_to_close(settings, None, now_ns):
            closed.append(date)
        shutil.rmtree(folder)
    assert closed[0] == "2026-11-22"
    assert closed[-1] == last
    assert len(closed) == int(last[-2:]) - 21
