"""When is a day over, so that it may be closed? Not before it is over in every zone in which it may still record."""

import struct
import subprocess
import sys
from pathlib import Path

import pytest

# Prints the dates of the exchange and of UTC, and for each day whether it would be closed; again where midnight came
# between. The days' folders are all that is there.
LOOK = """
import datetime as dt, shutil, sys
from pathlib import Path
from flows.close_days import anything_to_close
from flows.settings import load_settings
from tasks.market.hours import exchange_zone
from tasks.storage.store import Store

settings = load_settings(data_dir=Path(sys.argv[1]))
store = Store(settings.data_dir).prepare()


def dates():
    return [dt.datetime.now(zone).date() for zone in (exchange_zone("XNYS"), dt.UTC)]


before = None
while before != dates():
    before, lines = dates(), []
    for day in sorted({each + dt.timedelta(days=n) for each in before for n in (-1, 0, 1)}):
        folder = store.archive / "feed=finnhub" / f"date={day}"
        folder.mkdir(parents=True)
        lines.append(f"{day} {anything_to_close(settings, None)}")
        shutil.rmtree(folder)
print(*before, *lines, sep="\\n")
"""


@pytest.mark.parametrize("minutes", [-1439, 0, 1439], ids=["the day before", "the same day", "the day after"])
def test_a_day_that_may_still_record_is_not_closed(tmp_path: Path, minutes: int) -> None:
    """Wherever the exchange's clock is, a day waits until it is over there and in UTC, and no longer.

    New York is moved, by a time zone file of the test's own, to where its date is another than UTC's at any hour.
    """
    zones = tmp_path / "zones"
    (zones / "America").mkdir(parents=True)
    (zones / "America" / "New_York").write_bytes(zone_file(minutes * 60))
    environment = {
        "PYTHONTZPATH": str(zones), "PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path), "TAPE_CALENDAR": "XNYS",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(tmp_path / "data")],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    there, utc, *days = done.stdout.split("\n")[:-1]
    assert dict(line.split() for line in days) == {
        day: str(day < there and day < utc) for day, _ in map(str.split, days)
    }
    assert len(days) >= 3


def zone_file(offset_s: int) -> bytes:
    """A time zone of that offset from UTC, as RFC 8536 writes it: no change, one kind of time, and its name."""
    return b"TZif" + bytes(16) + struct.pack(">6l", 0, 0, 0, 0, 1, 4) + struct.pack(">lBB", offset_s, 0, 0) + b"NYT\0"
