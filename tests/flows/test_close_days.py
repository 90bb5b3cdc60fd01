"""Every day that is over is closed, uploaded, and cleared by the settings, whatever is wrong with another."""

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import archive_sealed
from typer.main import get_command

from flows.settings import load_settings
from tape.cli.app import app
from tasks.archive.side_records import removed
from tasks.errors import SettingsError
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.upload.uploads import upload_batch

T = 1_764_000_000_000_000_000
DAYS = ("2026-01-05", "2026-01-06", "2026-01-07")
TODAY = "9999-12-31"


@pytest.fixture
def archived(store: Store, sealed_batch: Callable[..., BatchName]) -> Callable[..., Path]:
    """Archives a batch of a day; gives its manifest."""

    def archive(date: str, number: int = 0, feed: str = "finnhub") -> Path:
        name = BatchName(f"{date.replace('-', '')}T143000Z-{len(feed):08x}", 0, number)
        lines = [b"1,%d,%d,%d,SPY,%d.5,1,\n" % (n, T + n, T, n) for n in range(1, 21)]
        sealed_batch(lines, name=name, date=date, feed=feed)
        return archive_sealed(store, name)

    return archive


def closing(tape: Any, date: str | None = None, **settings: str) -> Any:
    """What `tape close` runs, in this process."""
    from flows.close_days import close_day

    with tape.here(**settings):
        return close_day(date=None if date is None else dt.date.fromisoformat(date))


def closed(tape: Any) -> set[tuple[str, str]]:
    """Feed and date of every day's file."""
    return {
        (path.parent.parent.name.removeprefix("feed="), path.parent.name.removeprefix("date="))
        for path in tape.store.days.rglob("*.parquet")
    }


def test_every_day_that_is_over_is_closed_and_one_that_cannot_be_keeps_no_other(
    tape: Any, archived: Callable[..., Path]
) -> None:
    """Damage in one day fails the run at its end, with the day; the others are closed, a day to come is not."""
    from flows.close_days import NotClosed

    damaged = archived(DAYS[1])
    for date, feed in [(DAYS[0], "finnhub"), (DAYS[2], "finnhub"), (DAYS[2], "other"), (TODAY, "finnhub")]:
        archived(date, feed=feed)
    file = next(damaged.parent.glob("*.parquet"))
    whole = file.read_bytes()
    file.write_bytes(whole[:99] + b"\x00" + whole[100:])
    with pytest.raises(NotClosed, match=f"finnhub {DAYS[1]} is not closed: .*{file.name}") as failed:
        closing(tape)
    assert "\n" not in str(failed.value)
    assert {(day.feed, day.date) for day in failed.value.closing.days} == closed(tape)
    assert closed(tape) == {("finnhub", DAYS[0]), ("finnhub", DAYS[2]), ("other", DAYS[2])}
    file.write_bytes(whole)
    assert [day.date for day in closing(tape).days] == [DAYS[1]]
    assert closing(tape).days == ()
    archived(DAYS[0], number=1)
    assert [(day.date, len(day.batches)) for day in closing(tape).days] == [(DAYS[0], 2)]
    assert [day.date for day in closing(tape, TODAY).days] == [TODAY]


def test_uploaded_and_then_cleared_by_the_settings(
    tape: Any, archived: Callable[..., Path], bucket_settings: dict[str, str], object_store: Any
) -> None:
    """Once batches and day are up, batch files go here and there; what was removed is an artifact of the run."""
    path = archived(DAYS[0])
    archived(DAYS[0], number=1)
    at_once = {"TAPE_KEEP_BATCHES_FOR": "0s"}
    nowhere = {**bucket_settings, "TAPE_S3_ENDPOINT_URL": "http://127.0.0.1:1", "TAPE_UPLOAD_RETRIES": "0"}
    from flows.bucket import bucket_of
    from flows.close_days import NotClosed

    with pytest.raises(NotClosed, match=f"finnhub {DAYS[0]}: 1 of 1 records are not uploaded") as failed:
        closing(tape, **nowhere, **at_once)
    assert failed.value.closing.removed == ()
    assert len(list(path.parent.glob("*.parquet"))) == 2
    found = closing(tape, **bucket_settings, **at_once)
    assert (found.days, found.removed, len(found.kept)) == ((), (), 2)
    assert all("`tape archive` uploads it" in each.reason for each in found.kept)
    for name in map(BatchName.parse, (each.name for each in tape.store.manifests())):
        with tape.here(**bucket_settings):
            upload_batch(tape.store, name, bucket_of(load_settings(data_dir=tape.data)), lambda: T)
    found = closing(tape, **bucket_settings, **at_once)
    assert (found.days, found.kept, len(found.removed)) == ((), (), 2)
    assert not list(path.parent.glob("*.parquet"))
    (stem,) = {file.stem for file in tape.store.days.rglob("*.parquet")}
    folder = f"trades-by-day/feed=finnhub/date={DAYS[0]}"
    keys = set(object_store.keys())
    assert {f"{folder}/{stem}.parquet", f"{folder}/_{stem}.day.json"} < keys
    assert {key.rsplit("/", 1)[1] for key in keys if not key.startswith(folder)} == {
        each.name for each in tape.store.manifests()
    }
    said = removed(path)
    assert said is not None
    assert len(said.held_in) == 2
    artifacts = tape.server.ask("artifacts/filter", {"artifacts": {"key": {"any_": ["removed"]}}})
    assert any(path.parent.name in each["data"] for each in artifacts)
    secret = bucket_settings["TAPE_S3_SECRET_ACCESS_KEY"]
    assert secret not in str(tape.server.ask("logs/filter", {"limit": 200}))


@pytest.mark.slow
def test_from_a_terminal(tape: Any, archived: Callable[..., Path]) -> None:
    """`tape close` says what it closed, removed and kept, as text and as JSON; it exits 1 where a day is not closed."""
    path = archived(DAYS[0])
    done = tape.run("close", "--date", DAYS[0], TAPE_KEEP_BATCHES_FOR="0s", TAPE_KEEP_LOCAL_FOR="0s")
    assert done.returncode == 0, done.stderr
    assert f"finnhub {DAYS[0]}: 20 trades of 1 batches" in done.stdout
    assert "1 files deleted" in done.stdout
    assert "the only copy" in done.stdout
    assert not list(path.parent.glob("*.parquet"))
    file = next(tape.store.days.rglob("*.parquet"))
    file.write_bytes(b"x" + file.read_bytes()[1:])
    archived(DAYS[0], number=1)
    failed = tape.run("close", "--json")
    assert failed.returncode == 1
    said = json.loads(failed.stdout.splitlines()[-1])
    assert (said["closed"], said["days"], said["removed"]) == (False, [], [])
    assert f"finnhub {DAYS[0]} is not closed" in failed.stderr
    assert "Traceback" not in failed.stderr
    runs = tape.server.ask("flow_runs/filter", {"flows": {"name": {"any_": ["close-day"]}}})
    assert f"close {DAYS[0]}" in {each["name"] for each in runs}
    assert any(each["name"].startswith("close days before 20") for each in runs)


def test_a_date_that_is_none_is_refused_at_once() -> None:
    """What is no date is an error of the setting's kind, before any server is started."""
    with pytest.raises(SettingsError, match="--date: 'yesterday' is not a day"):
        get_command(app).main(["close", "--date", "yesterday"], standalone_mode=False)
