"""A private PostgreSQL on loopback for the tests' own Prefect servers: Debian's, or whichever is installed."""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USER = "tape"
# A cluster of a test need not survive a power loss.
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off")
_READY_WITHIN_S = 120


def commands() -> Path | None:
    """The folder of PostgreSQL's commands, the newest version's; None where it is not installed."""
    known = shutil.which("initdb")
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")  # Debian keeps them off the PATH.
    found = [Path(known).resolve()] if known else sorted(versions, key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@dataclass(frozen=True)
class Postgres:
    """A cluster in a folder; `url` is where a Prefect server finds its database."""

    folder: Path
    url: str = ""

    def stop(self) -> None:
        """Stop it at once, whoever started it, and remove its folder."""
        with suppress(RuntimeError):  # It has ended already.
            _command("pg_ctl", "stop", "-D", self.folder / "data", "-m", "immediate", "-w", folder=self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)


def start(port: int) -> Postgres:
    """Make a cluster and start it; returns once it accepts connections. It goes on until it is stopped.

    It lies directly in the folder for temporary files: its user, which cannot be root, may not enter a test's own.
    """
    folder = Path(tempfile.mkdtemp(prefix="tape-postgres-"))
    password = secrets.token_hex(16)
    it = Postgres(folder, f"postgresql+asyncpg://{USER}:{password}@127.0.0.1:{port}/postgres")
    (folder / "password").write_text(password)
    for path in (folder, folder / "password"):
        os.chown(path, *_owner())
    try:
        _command(
            "initdb", "-D", folder / "data", "-U", USER, "--auth=scram-sha-256", "--pwfile", folder / "password",
            "--encoding=UTF8", "--locale=C", "--no-sync", folder=folder,
        )  # fmt: skip
        settings = [word for each in _FAST for word in ("-o", f"-c {each}")]
        _command(
            "pg_ctl", "start", "-D", folder / "data", "-l", folder / "log", "-w", "-t", str(_READY_WITHIN_S),
            "-o", f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''", *settings, folder=folder,
        )  # fmt: skip
    except BaseException:
        it.stop()
        raise
    return it


def dump(url: str) -> bytes:
    """Everything in the database at this address, as SQL."""
    where = commands()
    assert where is not None
    command = [where / "pg_dump", "--dbname", url.replace("+asyncpg", "")]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout


def _command(name: str, *words: object, folder: Path, **options: Any) -> None:
    """Run one of PostgreSQL's commands as an unprivileged user, as it demands."""
    where = commands()
    assert where is not None, "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    with (folder / "commands.log").open("ab") as log:
        done = subprocess.run(
            [where / name, *map(str, words)], cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, **_unprivileged(), **options,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{name}: exit status {done.returncode}: {(folder / 'commands.log').read_text()[-2000:]}")


def _unprivileged() -> dict[str, Any]:
    if os.getuid() != 0:
        return {}
    user, group = _owner()
    return {"user": user, "group": group, "extra_groups": []}


def _owner() -> tuple[int, int]:
    """User and group that the cluster runs as: this process's own, in place of root's one that owns nothing else."""
    if os.getuid() != 0:
        return os.getuid(), os.getgid()
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            found = pwd.getpwnam(name)
            return found.pw_uid, found.pw_gid
    raise AssertionError("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")
