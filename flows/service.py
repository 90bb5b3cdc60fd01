"""What runs as a service: the deployments of `deployments/prefect.yaml`, for a worker or served by one process.

Both ways read the same file and deploy under the same names, so that changing from one to the other leaves no double.
"""

import importlib
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # Prefect's own dependency, which reads its own files with it.

from tasks.errors import SettingsError, TerminalError

FOLDER = Path(__file__).parents[1] / "deployments"
WORK_POOL, TAG = "tape", "tape"
TRADING_DAY = "flows.trading_day.trading_day"


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a deployment runs: cron in a time zone."""

    cron: str
    timezone: str
    active: bool


@dataclass(frozen=True, slots=True)
class Definition:
    """One deployment as the file has it."""

    name: str
    entrypoint: str
    description: str
    tags: tuple[str, ...]
    schedules: tuple[Schedule, ...]
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def is_scheduled(self) -> bool:
        """Whether it runs by itself."""
        return any(schedule.active for schedule in self.schedules)

    @property
    def flow(self) -> Any:
        """The flow that it runs; importing it imports Prefect."""
        module, _, name = self.entrypoint.rpartition(".")
        return getattr(importlib.import_module(module), name)


def from_yaml(path: Path) -> Any:
    """Return the content of one of the files. Raises SettingsError if it is missing or not YAML."""
    try:
        return yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise SettingsError(f"{path}: is not there; run this command from a clone of the repository") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: is not YAML ({' '.join(str(error).split())})") from error


def definitions(folder: Path = FOLDER) -> list[Definition]:
    """Return every deployment of `prefect.yaml`. Raises SettingsError if the file is missing or malformed."""
    path = folder / "prefect.yaml"
    try:
        listed = from_yaml(path)["deployments"]
        return [
            Definition(
                each["name"], each["entrypoint"], each["description"], tuple(each["tags"]),
                tuple(Schedule(one["cron"], one["timezone"], one["active"]) for one in each["schedules"]),
                each["parameters"] or {},
            )
            for each in listed
        ]  # fmt: skip
    except (KeyError, TypeError) as error:
        raise SettingsError(f"{path}: is not a list of deployments ({type(error).__name__}: {error})") from error


def trading_days(folder: Path = FOLDER) -> list[Definition]:
    """Return the deployments that record trading days by themselves: what should be recording is theirs to say."""
    return [each for each in definitions(folder) if each.entrypoint == TRADING_DAY and each.is_scheduled]


def definition_named(name: str, folder: Path = FOLDER) -> Definition:
    """Return the deployment of that name that records a trading day. Raises SettingsError if there is none."""
    days = {each.name: each for each in definitions(folder) if each.entrypoint == TRADING_DAY}
    if name not in days:
        raise SettingsError(f"{name[:40]!r} records no trading day; give one of {', '.join(days)}")
    return days[name]


def deploy(folder: Path = FOLDER) -> None:
    """Create or update the work pool and every deployment for its workers, as Prefect's own command does.

    Raises TerminalError with the command's last words if it fails.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(WORK_POOL)
        except ObjectNotFound:
            _prefect("work-pool", "create", WORK_POOL, "--type", "process")
    _prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(folder / "prefect.yaml"))


def _prefect(*words: str) -> None:
    # PWD is what the file takes for the folder of the .env: this process's, not what a shell had left in it.
    environment = {**os.environ, "PWD": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *words],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise TerminalError(f"`prefect {' '.join(words[:3])}` failed: {' '.join(said[-3:])[:500]}")


def served(folder: Path = FOLDER) -> list[Any]:
    """Return every deployment in the form that one process serves without a worker."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.types.entrypoint import EntrypointType

    return [
        each.flow.to_deployment(
            name=each.name, description=each.description, tags=list(each.tags), parameters=each.parameters,
            schedules=[
                DeploymentScheduleCreate(
                    schedule=CronSchedule(cron=one.cron, timezone=one.timezone), active=one.active
                )
                for one in each.schedules
            ],
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for each in definitions(folder)
    ]  # fmt: skip
