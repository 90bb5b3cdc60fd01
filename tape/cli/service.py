"""The commands that run the recorder as a service: `tape deploy`, `serve`, `watchdog`, `check`, and `day`."""

from pathlib import Path

import typer

from flows.orchestrator import NoOrchestrator, check
from flows.settings import load_settings
from flows.surroundings import check_tls
from tape import report
from tasks.errors import SettingsError

FAILED = 1


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(deploy)


def deploy() -> None:
    """Create or update the deployments and automations on Prefect's server; run it in the folder of your .env."""
    settings = load_settings()
    _server()
    from flows import automations, service

    service.deploy()
    report.line(f"deployed: {', '.join(each.name for each in service.definitions())}")
    names = automations.apply(settings)
    report.line(f"automations: {', '.join(name.removeprefix('tape: ') for name in names)}")
    if settings.alert_url is None:
        report.tell("no TAPE_ALERT_URL: nothing is sent when something goes wrong; set it and deploy again")


def _server() -> None:
    """Raise SettingsError unless a server is named that answers: one that a command starts for itself is no service."""
    check_tls()
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if url is None:
        raise SettingsError(f"PREFECT_API_URL: is not set, here or in {Path.cwd() / '.env'}; see docs/operations.md")
    try:
        check(str(url))
    except NoOrchestrator as error:
        raise SettingsError(str(error)) from error
