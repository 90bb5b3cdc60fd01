"""What several commands share: options, exit codes, and the check of the data folder."""

from pathlib import Path
from typing import Annotated

import typer

from tasks.errors import SettingsError
from tasks.storage.store import Store

# Exit codes: done but not whole; a setting or argument is wrong.
FAILED, WRONG_USE = 1, 2

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="The data folder. [TAPE_DATA_DIR, ./data]")]
SessionName = Annotated[str | None, typer.Option("--session", help="The session, if several are running.")]


def existing(data_dir: Path) -> Store:
    """Return the data folder. Raises SettingsError if there is none: reading must not create one."""
    if not data_dir.is_dir():
        raise SettingsError(f"{data_dir}: there is no such data folder; give --data-dir or set TAPE_DATA_DIR")
    return Store(data_dir)
