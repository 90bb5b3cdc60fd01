"""What `tape doctor` checks of the service: worker, deployments, automations, runs without a process, what waits."""

import datetime as dt
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows import service
from flows.orchestrator import check
from flows.settings import Settings
from flows.watchdog import amiss
from tape.cli.finding import Finding
from tasks.archive.catalog import Catalog
from tasks.errors import RecorderError, SettingsError
from tasks.records.names import DAY_FOLDERS, feed_and_date
from tasks.records.sessions import record_of
from tasks.shown import count
from tasks.storage.store import Store
from tasks.zones import utc_text

if TYPE_CHECKING:  # Importing it takes seconds.
    from prefect.client.orchestration import SyncPrefectClient

_SILENT_AFTER = dt.timedelta(seconds=90)


@contextmanager
def _client() -> Iterator["SyncPrefectClient"]:
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    check(str(get_current_settings().api.url))  # Prefect's own client would try for minutes.
    with get_client(sync_client=True) as client:
        yield client


def worker() -> Finding:
    """Check that somebody executes runs: a worker of the pool, or a process that serves the deployments."""
    with _client() as client:
        now = dt.datetime.now(dt.UTC)
        ours = _deployed(client)
        served = [each.last_polled for each in ours.values() if each.work_queue_id is None and each.last_polled]
        if served and now - max(served) < _SILENT_AFTER:
            return Finding("worker", "ok", f"`tape serve` polled {_ago(now - max(served))} ago")
        beats = [each.last_heartbeat_time for each in _workers(client) if each.last_heartbeat_time is not None]
        if beats and now - max(beats) < _SILENT_AFTER:
            return Finding(
                "worker", "ok", f"a worker of the pool {service.WORK_POOL} polled {_ago(now - max(beats))} ago"
            )
    last = f"the last one polled {_ago(now - max(beats))} ago" if beats else "none has ever polled"
    if not ours:
        return Finding("worker", "note", f"{last}: nothing is deployed, run `tape deploy`")
    command = f"prefect worker start --pool {service.WORK_POOL} --type process"
    text = f"{last}, so no run begins: run `{command}`, or `tape serve`"
    return Finding("worker", "wrong", text)


def _workers(client: "SyncPrefectClient") -> list[Any]:
    from prefect.client.schemas.objects import Worker
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        # Prefect has a method for it only in its asynchronous client.
        answer = client.request(
            "POST", "/work_pools/{work_pool_name}/workers/filter", json={},
            path_params={"work_pool_name": service.WORK_POOL},
        )  # fmt: skip
    except PrefectHTTPStatusError as error:
        if error.response.status_code == 404:  # There is no such pool yet.
            return []
        raise
    return [Worker.model_validate(each) for each in answer.json()]


def deployments() -> Finding:
    """Check that what is deployed is what this checkout has."""
    with _client() as client:
        found = _deployed(client)
    wanted = {each.name: each for each in service.definitions()}
    if not found:
        return Finding("deployments", "note", "none: run `tape deploy`, or `tape serve`")
    missing = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    other = [f"{name} differs" for name in wanted.keys() & found.keys() if not _is_as(wanted[name], found[name])]
    extra = [f"{name} is no longer there" for name in found.keys() - wanted.keys()]
    if wrong := sorted([*missing, *other, *extra]):
        return Finding("deployments", "note", f"not as in {service.FOLDER}: {', '.join(wrong)}; run `tape deploy`")
    return Finding("deployments", "ok", f"{len(found)}, as in this checkout")


def _deployed(client: "SyncPrefectClient") -> dict[str, Any]:
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=[service.TAG]))
    return {each.name: each for each in client.read_deployments(deployment_filter=tagged)}


def _is_as(wanted: service.Definition, found: Any) -> bool:
    """Whether the deployment is as the file has it; a schedule that was paused in the UI still is."""
    schedules = {(each.schedule.cron, each.schedule.timezone) for each in found.schedules}
    same = schedules == {(each.cron, each.timezone) for each in wanted.schedules}
    return same and (found.entrypoint, found.parameters) == (wanted.entrypoint, wanted.parameters)


def automations(settings: Settings) -> Finding:
    """Check that every automation is there once and on."""
    from flows.automations import automations as listed

    with _client() as client:
        found = {name: client.read_automations_by_name(name) for each in listed() if (name := each["name"])}
    if settings.alert_url is None:
        return Finding("alarms", "note", "no TAPE_ALERT_URL: nothing is sent; set it and run `tape deploy`")
    lacking = [name for name, those in found.items() if not any(each.enabled for each in those)]
    if lacking:
        return Finding("alarms", "note", f"off or not deployed: {', '.join(lacking)}; run `tape deploy`")
    return Finding("alarms", "ok", f"{len(found)} automations are on")


def stuck_runs(settings: Settings) -> Finding:
    """Check for runs that the server shows as running although their process on this machine is gone."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    from flows.runs import runs

    gone = [run for _, run in runs(Store(settings.data_dir)) if run.is_gone]
    stuck = []
    if gone:
        with _client() as client:
            ids = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(run.id) for run in gone]))
            stuck = [each.name for each in client.read_flow_runs(flow_run_filter=ids)
                     if each.state is not None and not each.state.is_final()]  # fmt: skip
    if stuck:
        return Finding("runs", "wrong", f"no process executes {', '.join(stuck[:5])}: `tape watchdog` ends such runs")
    return Finding("runs", "ok", "each run that is shown as running has its process")


def waiting(settings: Settings) -> Finding:
    """Count the batches that wait to be archived or uploaded."""
    from flows.bucket import bucket_of

    store, bucket = Store(settings.data_dir), bucket_of(settings)
    try:
        left = {*store.sealed_batches(), *store.validated_batches()}
        unsent = [] if bucket is None else Catalog(store).awaiting_upload(bucket.place)
    except (RecorderError, OSError) as error:
        return Finding("batches", "wrong", str(error))
    if not left and not unsent:
        return Finding("batches", "ok", "none waits")
    text = f"{count(len(left), 'batch')} to archive, {len(unsent):,} to upload: `tape archive`"
    return Finding("batches", "note", text)


def days_left(settings: Settings, free_bytes: int) -> str:
    """Return how many days the disk lasts at the rate of the newest archived day, or an empty text without one."""
    folders = list(Store(settings.data_dir).archive.glob(DAY_FOLDERS))
    if not folders:
        return ""
    date = max(feed_and_date(folder)[1] for folder in folders)
    size = sum(_size(folder) for folder in folders if feed_and_date(folder)[1] == date)  # Of a year, one day's files.
    days = max(0, free_bytes - settings.disk_reserve_bytes) / max(1, size)
    return f"; {days:,.0f} days at the rate of {date} ({size / 2**20:,.1f} MiB archived)"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def recording(settings: Settings) -> Finding:
    """Say whether each scheduled trading day is recorded, as `tape check` does."""
    try:
        wrong = amiss(time.time_ns())
    except SettingsError as error:
        return Finding("recording", "wrong", str(error))
    if wrong:
        has_begun = any(Store(settings.data_dir).sessions.glob("*"))  # Before the first day it is no fault.
        return Finding("recording", "wrong" if has_begun else "note", "; ".join(wrong))
    return Finding("recording", "ok", "no scheduled trading day of the last 24 hours lacks its recording")


def known_of_key(settings: Settings, name: str) -> Finding:
    """Say whether the feed accepted the key of the newest session; asking it would use up its one connection."""
    for folder in sorted(Store(settings.data_dir).sessions.glob("*"), reverse=True)[:10]:
        try:
            record = record_of(folder)
        except RecorderError:
            continue
        if record is None or record.feed != settings.feed:
            continue
        when = utc_text(record.started_ns)
        if record.error is not None and "key" in record.error and "refused" in record.error:
            return Finding("key", "wrong", f"{name}: was refused in the session of {when}: {record.error}")
        if record.listening_ns is not None:
            return Finding("key", "ok", f"{name} is set; a connection with a key was accepted at {when}")
    return Finding("key", "ok", f"{name} is set; not tried yet: the first connection shows whether the feed accepts it")


def _ago(ago: dt.timedelta) -> str:
    return f"{max(0, round(ago.total_seconds())):,} s"
