"""The README says what is so: its settings, its commands, its deployments, its pictures."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prefect_server import free_port
from typer.main import get_command
from typer.testing import CliRunner

from flows.settings import Settings
from tape.cli.app import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_every_setting_stands_in_the_readme_as_it_is() -> None:
    """The table of settings has each setting once, with its default and its description."""
    rows = re.findall(r"^\| `((?:TAPE|FINNHUB)_[A-Z0-9_]+)` \| (.*?) \| (.*) \|$", README, re.MULTILINE)
    expected = [
        (field.validation_alias, f"`{field.default}`" if field.default not in (None, "") else "–", field.description)
        for field in Settings.model_fields.values()
    ]
    assert rows == expected


def shown_commands() -> list[str]:
    """Each `tape …` that the README shows in a table or a block of commands."""
    return sorted(set(re.findall(r"(?:`|… |^    )tape ([a-z]+(?: (?:add|list|remove))?)\b", README, re.MULTILINE)))


@pytest.mark.parametrize("words", shown_commands())
def test_every_command_shown_exists(words: str) -> None:
    """Each command that the README names answers --help."""
    result = CliRunner().invoke(app, [*words.split(), "--help"])
    assert result.exit_code == 0, result.output


def test_every_command_is_shown() -> None:
    """Each word of `tape` stands in the README's table."""
    words = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert words <= {each.split()[0] for each in re.findall(r"^\| `tape ([a-z].*?)`", README, re.MULTILINE)}


def test_options_shown_exist() -> None:
    """Each option in a row of the command table is one of that command's."""
    rows = re.findall(r"^\| `tape ([a-z]+)(.*)$", README, re.MULTILINE)
    assert any("--" in row for _, row in rows)
    for word, row in rows:
        shown = set(re.findall(r"--[a-z][a-z-]+", row))
        text = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, [word, "--help"]).output
        assert {option for option in shown if option not in text} == set(), word


def test_deployments_and_pictures_named_exist() -> None:
    """The deployments that the README describes are those of prefect.yaml, and its pictures are there."""
    deployed = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]
    for deployment in deployed:
        assert f"`{deployment['name']}`" in README
    named = re.findall(r"\]\((docs/[^)]+)\)", README)
    assert deployed
    assert named
    for picture in named:
        assert (ROOT / picture).stat().st_size < 300_000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_steps_for_real_work_as_they_are_written(tmp_path: Path) -> None:
    """The README's own lines, in order, in a fresh copy of the checkout: deployed, scheduled, with a worker."""
    port = free_port()
    steps = re.search(r"## Running it for real\n\n((?:    .*\n)+)", README)
    assert steps is not None
    lines = [line.split("  #")[0].strip().replace("4200", str(port)) for line in steps[1].splitlines()]
    folder = tmp_path / "clone"
    for name in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    server = folder / "deployments" / "server.env"
    server.write_text(server.read_text().replace("4200", str(port)))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TAPE_", "FINNHUB", "PREFECT_"))}
    environment = {
        **kept, "PREFECT_HOME": str(tmp_path / "home"), "PREFECT_SERVER_API_PORT": str(port), "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PYTHONPATH": str(folder),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    # As anybody could, from any page: start a run, and ask whether another page's script may.
    api = f"http://127.0.0.1:{port}/api/deployments/filter"
    asked = [
        f"""curl -s -o /dev/null -w 'a stranger gets %{{http_code}}\\n' -X POST -d '{{}}' {api}""",
        f"curl -s -D - -o /dev/null -X OPTIONS -H 'Origin: http://evil.example' "
        f"-H 'Access-Control-Request-Method: POST' {api}",
    ]
    # The scheduler makes the first runs within seconds of a deployment.
    script = "\n".join(
        ["set -e", *lines[:-1], *asked, "sleep 15", f"{lines[-1]} || true", "kill $!", "prefect server stop"]
    )
    with (tmp_path / "shown").open("w+") as shown:  # A pipe would be held open by what runs in the background.
        done = subprocess.run(
            ["/bin/bash", "-c", script], cwd=folder, env=environment, stdout=shown, stderr=shown, timeout=240,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        shown.seek(0)
        text = shown.read()
    assert done.returncode == 0, text[-3000:]
    assert (folder / ".env").stat().st_mode & 0o777 == 0o600
    assert "a stranger gets 401" in text or "a stranger gets 403" in text
    assert "access-control-allow-origin" not in text.lower()
    (prefect,) = [line for line in text.splitlines() if line[6:].startswith("prefect")]
    assert prefect.startswith("ok"), prefect
    (schedules,) = [line for line in text.splitlines() if line[6:].startswith("schedules")]
    assert schedules.startswith("ok"), schedules
    for name in ("market-hours", "safety-net", "close-day"):
        assert name in schedules
