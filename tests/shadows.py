"""Files in a user's folder that could shadow modules of Python, a library, or ours."""

from pathlib import Path

_BREAKS = 'raise SystemExit("a file of the user was imported")\n'
NAMES = ("queue", "http", "websocket", "tasks", "flows", "msgspec", "logging", "sitecustomize")


def cast(folder: Path) -> Path:
    """Fill a folder with files and packages of these names, none of which may be imported."""
    for name in NAMES:
        (folder / f"{name}.py").write_text(_BREAKS)
    for package in ("tasks", "flows"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text(_BREAKS)
    return folder
