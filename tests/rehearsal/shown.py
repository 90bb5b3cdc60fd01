"""What Prefect's UI shows, asked of the server as the UI asks it."""

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from installation import Installation


class Api:
    """The runs, events, and pages of the service's server."""

    def __init__(self, house: Installation) -> None:
        self._house = house

    @contextmanager
    def client(self) -> Iterator[Any]:
        """A client of the server."""
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

        known = {PREFECT_API_URL: self._house.url, PREFECT_API_AUTH_STRING: self._house.password}
        with temporary_settings(known), get_client(sync_client=True) as client:
            yield client

    def runs(self, flow: str = "trading-day") -> list[Any]:
        """The runs of a flow that have begun, the oldest first."""
        from prefect.client.schemas.filters import FlowFilter, FlowFilterName

        with self.client() as client:
            found = client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])))
        return sorted((each for each in found if each.start_time is not None), key=lambda each: each.start_time)

    def run_if(self, id: Any, *states: str) -> Any:
        """The run of that ID if it is in one of these states."""
        return next((each for each in self.runs() if each.id == id and each.state_type.value in states), None)

    def worker_polled(self, since: dt.datetime) -> bool:
        """Whether a worker has polled since then."""
        with self.client() as client:
            found = client.request("POST", "/work_pools/tape/workers/filter", json={}).json()
        return any(dt.datetime.fromisoformat(each["last_heartbeat_time"]) > since for each in found)

    def delete_runs(self) -> None:
        """Delete all runs: a schedule that was deployed too late has made one that is late."""
        with self.client() as client:
            for each in client.read_flow_runs():
                client.delete_flow_run(each.id)

    def events(self, run: Any) -> list[str]:
        """The names of the events of a run."""
        wanted = {"filter": {"resource": {"id": [f"prefect.flow-run.{run}"]}}, "limit": 50}
        with self.client() as client:
            found = client.request("POST", "/events/filter", json=wanted).json()
        return [each["event"] for each in found["events"]]

    def page(self, key: str) -> Any:
        """The artifact that is shown for a key: the one written last; None before the first."""
        from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

        with self.client() as client:
            found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
        return max(found, key=lambda each: each.updated, default=None)


def gap_rows(text: str) -> list[tuple[str, str]]:
    """The gaps in a page's table: start and reason."""
    head = "| gap from | to | lasted | symbols | reason |"
    if head not in text:
        return []
    lines = text.split(head, 1)[1].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        rows.append((cells[0], cells[-1]))
    return rows
