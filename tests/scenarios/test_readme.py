"""The README and the pages in docs/ say what is so: settings, commands, options, deployments, links, pictures."""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from prefect_server import free_port
from typer.main import get_command
from typer.testing import CliRunner

from flows.settings import Settings, setting_names
from tape.cli.app import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCS = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
PAGES = {"README.md": README, "CONTRIBUTING.md": (ROOT / "CONTRIBUTING.md").read_text(), **DOCS}
SHOWN = "\n".join([README, *DOCS.values()])
MOST_LINES = 200


def test_the_readme_is_short() -> None:
    """Details are on the pages in docs/, each of which the README links to."""
    assert len(README.splitlines()) < MOST_LINES
    assert {name for name in DOCS if f"](docs/{name})" not in README} == set()


def test_every_setting_is_documented_as_it_is() -> None:
    """The settings table has each setting once, with its default and description."""
    rows = re.findall(r"^\| `([A-Z0-9]+_[A-Z0-9_]+)` \| (.*?) \| (.*) \|$", DOCS["settings.md"], re.MULTILINE)
    expected = [
        (field.validation_alias, f"`{field.default}`" if field.default not in (None, "") else "–", field.description)
        for field in Settings.model_fields.values()
    ]
    assert rows == expected


def test_every_setting_named_exists() -> None:
    """Every setting named on a page exists; a name that ends in `_` or `_*` stands for several."""
    named = {name for text in PAGES.values() for name in re.findall(r"\bTAPE_[A-Z0-9_]*[A-Z0-9]\b(?!_)", text)}
    assert named - set(setting_names()) == set()


def shown_commands() -> list[str]:
    """Return each `tape …` command in the README or docs/, in tables, text, or code blocks."""
    return sorted(set(re.findall(r"(?:`|… |^    )tape ([a-z]+(?: (?:add|list|remove))?)\b", SHOWN, re.MULTILINE)))


@pytest.mark.parametrize("words", shown_commands())
def test_every_command_shown_exists(words: str) -> None:
    """Each command that the README or a page in docs/ names answers --help."""
    result = CliRunner().invoke(app, [*words.split(), "--help"])
    assert result.exit_code == 0, result.output


def test_every_command_is_shown() -> None:
    """Each command of `tape` is in the table of docs/commands.md."""
    words = set(get_command(app).commands)  # type: ignore[attr-defined]
    table = re.findall(r"^\| `tape ([a-z].*?)`", DOCS["commands.md"], re.MULTILINE)
    assert words == {each.split()[0] for each in table}


def test_options_shown_exist() -> None:
    """Each option in the command table, a command line, or text is one of that command's."""
    rows = re.findall(r"^\| `tape ([a-z]+)(.*)$", DOCS["commands.md"], re.MULTILINE)
    lines = re.findall(r"^    (?:[A-Z_]+=\S+ )?tape ([a-z]+)(.*)$", SHOWN, re.MULTILINE)
    texts = re.findall(r"`tape ([a-z]+)([^`]*)`", SHOWN)
    for shown in (rows, lines, texts):
        assert any("--" in rest for _, rest in shown)
    for word, rest in [*rows, *lines, *texts]:
        if word != "symbols":
            assert {option for option in options_in(rest) if option not in help_of(word)} == set(), (word, rest)


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<!\w)--[a-z][a-z-]+", text))


@cache
def help_of(word: str) -> str:
    return CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, [word, "--help"]).output


def test_deployments_named_exist() -> None:
    """The deployments that docs/operations.md describes are those of prefect.yaml."""
    deployed = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]
    described = re.findall(r"^\| `([a-z-]+)` \|", DOCS["operations.md"], re.MULTILINE)
    assert sorted(described) == sorted(each["name"] for each in deployed)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Every link to our files and headings resolves, and pictures are small."""
    folder = ROOT / "docs" if page in DOCS else ROOT
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", PAGES[page]):
        name, _, heading = target.partition("#")
        path = folder / name if name else folder / page
        assert path.is_file(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in headings}, target
        if path.suffix == ".png":
            assert path.stat().st_size < 300_000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_steps_for_real_work_as_they_are_written(tmp_path: Path) -> None:
    """The commands of docs/operations.md, run in order in a fresh checkout, deploy, schedule, and run."""
    port = free_port()
    steps = re.search(r"## Deploy\n\n.*\n\n((?:    .*\n)+)", DOCS["operations.md"])
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
