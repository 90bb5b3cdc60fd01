"""The commands that run the recorder as a service: `tape deploy`, `serve`, `watchdog`, `check`, and `day`."""

import datetime as dt
import logging
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from flows import service, watchdog
from flows.orchestrator import NoOrchestrator, orchestrated, run
from flows.orchestrator import check as check_server
from flows.settings import load_settings, settings_to_write
from flows.stopping import ended_in_order
from flows.surroundings import check_feed, check_tls
from tape import report
from tape.cli.options import FAILED
from tasks.errors import SettingsError
from tasks.records.ledger import Ledger
from tasks.storage.store import write_whole

_SENT_FILE = ".alarms.json"


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (deploy, serve, watch, check, day):
        app.command("watchdog" if command is watch else None)(command)


def deploy() -> None:
    """Create or update the deployments and automations on Prefect's server; run it in the folder of your .env."""
    settings = load_settings()
    _require_server()
    from flows import automations

    service.deploy()
    report.line(f"deployed: {', '.join(each.name for each in service.definitions())}")
    names = automations.apply(settings)
    report.line(f"automations: {', '.join(name.removeprefix('tape: ') for name in names)}")
    if settings.alert_url is None:
        report.tell("no TAPE_ALERT_URL: nothing is sent when something goes wrong; set it and deploy again")


def serve() -> None:
    """Run schedules, automations, and the watchdog in this process, where no worker is wanted; until it is stopped."""
    load_settings()
    check_tls()
    _log_to_stderr()
    from flows import serving

    serving.serve(_require_server)


def watch() -> None:
    """Restart what should be recording and is not, and end runs whose process is gone; runs until it is stopped."""
    load_settings()
    check_tls()
    _log_to_stderr()
    watchdog.Watchdog().run()


def _log_to_stderr() -> None:
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # It logs every request.


def check(
    alert: Annotated[bool, typer.Option("--alert", help="Send each new problem to TAPE_ALERT_URL too.")] = False,
) -> None:
    """Say whether each scheduled trading day is, or was, recorded, from the data folder alone. Exits 1 if not."""
    settings = load_settings()
    problems = watchdog.amiss(time.time_ns())
    for problem in problems:
        report.line(("wrong", "red"), f" {problem}")
    if not problems:
        report.line(("ok", "green"), " every scheduled trading day is recorded")
    if alert and settings.alert_url is not None:
        _alert_once(problems)
    if problems:
        raise typer.Exit(FAILED)


def _alert_once(problems: list[str]) -> None:
    """Send the problems that were not sent before; a timer runs the check again and again."""
    settings = settings_to_write()
    path = settings.data_dir / _SENT_FILE
    try:
        sent = set(msgspec.json.decode(path.read_bytes(), type=list[str]))
    except (OSError, msgspec.MsgspecError):
        sent = set()
    new = [problem for problem in problems if problem not in sent]
    if new and settings.alert_url is not None:
        from flows.alerts import send

        send(settings.alert_url, "tape: not recorded", "\n".join(new))
    if set(problems) != sent:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        write_whole(path, msgspec.json.encode(problems))


def day(
    deployment: Annotated[str, typer.Argument(help="The deployment in deployments/prefect.yaml.")] = "market-hours",
    date: Annotated[str | None, typer.Option("--date", help="The day, YYYY-MM-DD; by default today.")] = None,
) -> None:
    """Record a trading day as its deployment does, without a worker: from before the open until it is closed."""
    definition = service.definition_named(deployment)
    settings = load_settings(**definition.parameters)
    wanted = None if date is None else _date(date)
    check_feed(settings)
    from prefect import tags

    from flows.trading_day import trading_day
    from tape.cli.log_lines import expected_errors_in_a_line
    from tasks.capture.supervise import watched

    expected_errors_in_a_line()
    with ended_in_order(report.tell), orchestrated(report.tell), tags(service.TAG):
        done = run(trading_day, report.tell, has_begun=lambda: bool(watched), date=wanted, **definition.parameters)
    if isinstance(done, Ledger):
        report.print_ledger(done, settings.data_dir)
    elif message := getattr(done, "message", None):
        report.line(str(message))


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise SettingsError(f"--date: {text[:40]!r} is not a day; write YYYY-MM-DD") from error


def _require_server() -> None:
    """Raise SettingsError unless a server is named that answers: one that a command starts for itself is no service."""
    check_tls()
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if url is None:
        raise SettingsError(f"PREFECT_API_URL: is not set, here or in {Path.cwd() / '.env'}; see docs/operations.md")
    try:
        check_server(str(url))
    except NoOrchestrator as error:
        raise SettingsError(str(error)) from error
