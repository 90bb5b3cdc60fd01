"""The README says what is so: its settings, its commands, its deployments, its pictures."""

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from flows.cli import app
from flows.settings import Settings

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
    for word, row in re.findall(r"^\| `tape ([a-z]+)(.*)$", README, re.MULTILINE):
        shown = set(re.findall(r"--[a-z][a-z-]+", row))
        text = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, [word, "--help"]).output
        assert {option for option in shown if option not in text} == set(), word


def test_deployments_and_pictures_named_exist() -> None:
    """The deployments that the README describes are those of prefect.yaml, and its pictures are there."""
    deployed = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]
    for deployment in deployed:
        assert f"`{deployment['name']}`" in README
    for picture in re.findall(r"\]\((docs/[^)]+)\)", README):
        assert (ROOT / picture).stat().st_size < 300_000
