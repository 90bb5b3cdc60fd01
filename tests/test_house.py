"""The code follows the rules of CONTRIBUTING: who may import whom, one place per library, and plain habits.

Each rule reads the sources of a folder, so that a planted violation shows that the rule can fail.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.feeds.registry import FEEDS

ROOT = Path(__file__).parents[1]

# A library is imported only below these paths; the tests are free.
DOORS = {
    "websocket": ("tasks/capture/feed.py",),
    "pandera": ("tasks/validate/",),
    "boto3": ("tasks/upload/client.py",),
    "botocore": ("tasks/upload/client.py", "tasks/upload/s3_errors.py"),
    "websockets": ("tasks/replay/",),
    "exchange_calendars": ("tasks/market/",),
    "pydantic_settings": ("flows/settings.py",),
    "duckdb": ("tasks/query/",),
    "nicegui": ("tape/dashboard/",),
    "fastapi": ("tape/dashboard/",),
    "starlette": ("tape/dashboard/",),
    "uvicorn": ("tape/dashboard/",),
    "picows": (),
    "uvloop": (),
}
# What every stage may import: the rooms that stages share, and the few files beside them.
SHARED_ROOMS = {"feeds", "archive", "records", "storage"}
SHARED_MAY_IMPORT = {"msgspec", "numpy", "pyarrow", "polars"}
# The one shared file that knows Prefect: the options of every stage's task.
TASK_OPTIONS = "tasks/task_options.py"
# It starts the recorder's process, and hands the environment on to it without our secrets; it may take no value.
HANDS_ENVIRONMENT_ON = "tasks/capture/supervise.py"
# What is particular to a vendor stands in these rooms alone.
KNOW_VENDORS = ("tasks/feeds/", "tasks/replay/")
VENDORS = re.compile("|".join(FEEDS), re.IGNORECASE)
NO_NAMES = {"util", "utils", "common", "helper", "helpers", "misc"}


@dataclass(frozen=True, slots=True)
class Source:
    """One Python file: its path below the root, its syntax tree and the dotted names that it imports."""

    path: str
    tree: ast.Module
    imports: tuple[str, ...]
    text: str

    @property
    def stage(self) -> str | None:
        """The stage whose folder it lies in; None in a shared room and outside `tasks/`."""
        parts = self.path.split("/")
        is_room = parts[0] == "tasks" and len(parts) > 2
        return parts[1] if is_room and parts[1] not in SHARED_ROOMS else None

    @property
    def is_task(self) -> bool:
        return (self.stage is not None and self.path.endswith("/task.py")) or self.path == TASK_OPTIONS

    @property
    def is_engine(self) -> bool:
        return self.path.startswith("tasks/") and not self.is_task


def sources(root: Path, *folders: str) -> list[Source]:
    """The Python files below these folders of `root`."""
    found = []
    for path in sorted(path for folder in folders for path in (root / folder).rglob("*.py")):
        place, text = path.relative_to(root), path.read_text()
        tree = ast.parse(text)
        found.append(Source(place.as_posix(), tree, tuple(imported(tree, place.parent.parts)), text))
    return found


def imported(tree: ast.Module, package: tuple[str, ...]) -> Iterator[str]:
    """Every name that is imported, absolute: `from tasks.a import b` gives `tasks.a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*above, node.module or "")).strip(".")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def broken_rules(root: Path) -> list[str]:
    """Every violation below `root`, one line each: the file, and what it must not do."""
    lines = []
    for source in sources(root, "flows", "tape", "tasks"):
        lines += [f"{source.path}: {what}" for what in [*wrong_imports(root, source), *wrong_content(source)]]
    lines += [f"{source.path}: {what}" for source in sources(root, "deployments") for what in wrong_doors(source)]
    lines += untold_tests(root) + nameless_rooms(root) + addresses_in_lock(root)
    return lines


def wrong_imports(root: Path, source: Source) -> Iterator[str]:
    yield from wrong_doors(source)
    for name in source.imports:
        first, second = (*name.split("."), "")[:2]
        if first == "flows" and not source.path.startswith(("flows/", "tape/")):
            yield f"imports {name}, but nothing knows the flows"
        if first == "tape" and not source.path.startswith("tape/"):
            yield f"imports {name}, but nothing knows the command"
        if first == "prefect" and source.is_engine:
            yield f"imports {name}, but an engine runs without Prefect"
        is_foreign = first not in {"tasks", *SHARED_MAY_IMPORT, *sys.stdlib_module_names}
        if source.is_engine and source.stage is None and is_foreign:
            yield f"imports {name}, but a shared room imports only shared rooms and {sorted(SHARED_MAY_IMPORT)}"
        is_room = first == "tasks" and bool(second) and (root / "tasks" / second).is_dir()
        if not is_room or second in SHARED_ROOMS or second == source.stage:
            continue
        if source.stage:
            yield f"imports {name}, but no stage knows another"
        elif source.path.startswith("tasks/"):
            yield f"imports {name}, but a shared room knows no stage"
    yield from second_names(source.tree)


def second_names(tree: ast.Module) -> Iterator[str]:
    """Names that a file offers although another defines them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (f"re-exports {each.name}" for each in node.names if each.name == each.asname)
        if isinstance(node, ast.Name) and node.id == "__all__":  # Nor a list of what others define.
            yield "re-exports names by __all__"


def wrong_doors(source: Source) -> Iterator[str]:
    for name in source.imports:
        library = name.split(".")[0]
        if not source.path.startswith(DOORS.get(library, "")):
            yield f"imports {name}, whose one door is {' '.join(DOORS[library]) or 'the tests'}"


def wrong_content(source: Source) -> Iterator[str]:
    if source.path.endswith("/__init__.py") and not only_docstring(source.tree):
        yield "is more than a docstring"
    if not (source.tree.body and ast.get_docstring(source.tree)):
        yield "has no module docstring"
    if source.path == "flows/settings.py":
        return
    may_not_mention = source.is_engine and source.path != HANDS_ENVIRONMENT_ON
    if source.path.startswith("tasks/") and not source.path.startswith(KNOW_VENDORS):
        named = VENDORS.search(source.text)
        if named is not None:
            yield f"names the vendor {named[0]}, but only {' and '.join(KNOW_VENDORS)} know one"
    for node in ast.walk(source.tree):
        if reads_environment(node) or (may_not_mention and mentions_environment(node)):
            yield f"reads the environment in line {node.lineno}, but only flows/settings.py does"  # type: ignore[attr-defined]


def only_docstring(tree: ast.Module) -> bool:
    return len(tree.body) == 1 and ast.get_docstring(tree) is not None


def mentions_environment(node: ast.AST) -> bool:
    """Whether this is `os.environ` or its like; an engine has no use for it at all."""
    if isinstance(node, ast.ImportFrom) and node.module == "os":
        return any(alias.name in {"environ", "environb", "getenv", "getenvb"} for alias in node.names)
    return isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv", "getenvb"}


def reads_environment(node: ast.AST) -> bool:
    """Whether this takes a value from the environment; a flow may set one, or hand all to a child."""
    if isinstance(node, ast.ImportFrom):
        return mentions_environment(node)
    if isinstance(node, ast.Subscript):
        return isinstance(node.ctx, ast.Load) and mentions_environment(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr in {"getenv", "getenvb"} or (node.attr in {"get", "pop"} and mentions_environment(node.value))
    return False


def untold_tests(root: Path) -> list[str]:
    return [
        f"{source.path}: {node.name} does not state its behaviour in a docstring"
        for source in sources(root, "tests")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]


def nameless_rooms(root: Path) -> list[str]:
    folders = ("flows", "tape", "tasks", "tests", "deployments")
    places = (path for folder in folders for path in (root / folder).rglob("*"))
    return [f"{place.relative_to(root)}: names nothing" for place in places if place.stem.lower() in NO_NAMES]


def addresses_in_lock(root: Path) -> list[str]:
    lines = enumerate((root / "requirements.lock").read_text().splitlines(), 1)
    return [
        f"requirements.lock: holds an address or an option in line {number}"
        for number, line in lines
        if "://" in line or line.startswith("-")
    ]


def prefect_comes_with(root: Path) -> str:
    """Which engine's import brings Prefect in, in a fresh interpreter; empty where none does."""
    paths = [Path(source.path) for source in sources(root, "tasks") if source.is_engine]
    modules = [".".join(path.with_suffix("").parts) for path in paths if path.stem not in {"__init__", "__main__"}]
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if 'prefect' in sys.modules: sys.exit(print(name, end=''))\n"
    )
    command = [sys.executable, "-c", program, *modules]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def test_the_house_keeps_its_rules() -> None:
    """No file of this project breaks a rule."""
    assert broken_rules(ROOT) == []


def test_no_engine_brings_prefect() -> None:
    """Importing every engine leaves Prefect, seconds of start-up, unimported."""
    assert prefect_comes_with(ROOT) == ""


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small house that keeps every rule."""
    files = {
        "flows/__init__.py": '"""Flows."""\n',
        "flows/day.py": '"""?"""\nimport prefect\nimport tasks.capture.task\nfrom tasks.market import hours\n',
        "flows/settings.py": '"""?"""\nimport os\nimport pydantic_settings\nkey = os.environ["KEY"]\n',
        "flows/child.py": '"""?"""\nimport os\nos.environ["A"] = "b"\nenvironment = {**os.environ}\n',
        "tasks/__init__.py": '"""Tasks."""\n',
        "tasks/records/__init__.py": '"""Records."""\n',
        "tasks/records/trade.py": '"""?"""\nimport os\nimport msgspec\nfrom tasks import errors\n',
        "tasks/errors.py": '"""?"""\n',
        "tasks/task_options.py": '"""?"""\nimport prefect\n',
        "tasks/capture/__init__.py": '"""Capture."""\n',
        "tasks/capture/feed.py": (
            '"""?"""\nimport websocket\nfrom tasks.records.trade import Trade\nfrom . import lanes\n'
        ),
        "tasks/capture/lanes.py": '"""?"""\n',
        "tasks/capture/task.py": '"""?"""\nimport prefect\nfrom tasks.capture.feed import read\n',
        "tasks/market/__init__.py": '"""Market."""\n',
        "tasks/market/hours.py": '"""?"""\nimport exchange_calendars\n',
        "tests/test_day.py": 'import flows.day\ndef test_day():\n    """A day is a day."""\n',
        "requirements.lock": "prefect==3.8.8 \\\n    --hash=sha256:00\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_clean_house_passes(house: Path) -> None:
    """The small house into which violations are planted has none of its own."""
    assert broken_rules(house) == []


@pytest.mark.parametrize(
    ("path", "line", "told"),
    [
        ("flows/day.py", "from tasks.capture.feed import read as read", "re-exports read"),
        ("tasks/capture/task.py", '"""?"""\n__all__ = ["read"]', "re-exports names"),
        ("flows/day.py", "import os; os.getenv('A')", "reads the environment"),
        ("flows/day.py", "import os; os.environ['A']", "reads the environment"),
        ("flows/day.py", "import os; os.environ.get('A')", "reads the environment"),
        ("flows/day.py", "from pydantic_settings import BaseSettings", "one door is flows/settings.py"),
        ("flows/day.py", "import picows", "one door is the tests"),
        ("flows/day.py", "import duckdb", "one door is tasks/query/"),
        ("deployments/day.py", "import boto3", "one door is tasks/upload/client.py"),
        ("tasks/records/trade.py", "from tasks.capture import feed", "a shared room knows no stage"),
        ("tasks/records/trade.py", "import boto3", "a shared room imports only"),
        ("tasks/records/trade.py", "import prefect", "runs without Prefect"),
        ("tasks/market/hours.py", "def f():\n    from tasks.capture.lanes import Lane", "no stage knows another"),
        ("tasks/market/hours.py", "from ..capture import lanes", "no stage knows another"),
        ("tasks/market/task.py", '"""?"""\nfrom tasks.capture.task import record', "no stage knows another"),
        ("tasks/market/hours.py", "import flows.settings", "nothing knows the flows"),
        ("tasks/capture/task.py", "from flows import settings", "nothing knows the flows"),
        ("flows/day.py", "from tape import start", "nothing knows the command"),
        ("tasks/market/hours.py", "import prefect.flows", "runs without Prefect"),
        ("tasks/market/hours.py", "import os; print(os.environ)", "reads the environment"),
        ("tasks/market/hours.py", "from os import environ", "reads the environment"),
        ("tasks/capture/task.py", "import os; os.getenv('A')", "reads the environment"),
        ("tasks/capture/supervise.py", '"""?"""\nimport os; os.environ["A"]', "reads the environment"),
        ("tasks/capture/lanes.py", "from websocket import WebSocketApp", "one door is tasks/capture/feed.py"),
        ("tasks/capture/lanes.py", "import websockets.sync", "one door is tasks/replay/"),
        ("tasks/capture/lanes.py", "import pandera.polars", "one door is tasks/validate/"),
        ("tasks/capture/lanes.py", "import botocore", "one door is tasks/upload/client.py"),
        ("tasks/capture/lanes.py", "import exchange_calendars", "one door is tasks/market/"),
        ("tasks/capture/__init__.py", "from tasks.capture.feed import read", "is more than a docstring"),
        ("tasks/capture/bare.py", "x = 1", "has no module docstring"),
        ("tests/test_day.py", "class TestDay:\n    def test_night(self): ...", "does not state its behaviour"),
        ("tasks/capture/lanes.py", "NAME = 'Coinbase'", "names the vendor Coinbase"),
        ("tasks/utils.py", '"""?"""', "names nothing"),
        ("tests/helpers/x.py", '"""?"""', "names nothing"),
        ("requirements.lock", "a @ https://example.org/a.whl", "holds an address"),
        ("requirements.lock", "--find-links=wheels", "holds an address or an option"),
    ],
)
def test_a_planted_violation_is_found(house: Path, path: str, line: str, told: str) -> None:
    """Each rule finds the file that breaks it, and says what is wrong."""
    planted = house / path
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text((planted.read_text() if planted.exists() else "") + f"{line}\n")
    found = broken_rules(house)
    assert len(found) >= 1
    assert any(told in each and each.startswith(path.rsplit("/x.py")[0]) for each in found), found


def test_prefect_is_found_however_it_is_imported(house: Path) -> None:
    """An engine that brings Prefect in by a way that its source does not show is named."""
    for library in ("prefect", "websocket", "exchange_calendars"):
        (house / f"{library}.py").touch()
    (house / "tasks/records/trade.py").write_text('"""?"""\nclass Trade: ...\n')
    assert prefect_comes_with(house) == ""
    (house / "tasks/market/hours.py").write_text('"""?"""\n__import__("prefect")\n')
    assert prefect_comes_with(house) == "tasks.market.hours"
