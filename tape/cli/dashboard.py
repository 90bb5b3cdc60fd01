"""The command `tape dashboard`: serves the web page, in a process of its own that only reads files."""

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from flows.settings import load_settings
from tape import report
from tape.cli.options import DataDir, existing
from tasks.errors import SettingsError, TerminalError

DEFAULT_PORT = 8420
# A recorder on the same cores comes first.
_NICE = 10
_SHORTEST_TOKEN = 16


def dashboard(
    data_dir: DataDir = None,
    host: Annotated[str, typer.Option(help="The address to listen on; any but loopback needs a token.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help=f"The port. [{DEFAULT_PORT}, or a free one if it is taken]", min=0, max=65535)
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="A name by which browsers reach it, such as a proxy's.")
    ] = None,
    root_path: Annotated[str, typer.Option("--root-path", help="The path before the page, such as /tape.")] = "",
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="A file with the token. [TAPE_DASHBOARD_TOKEN]")
    ] = None,
    metrics: Annotated[bool, typer.Option("--metrics", help="Also serve /metrics for Prometheus.")] = False,
) -> None:
    """Show running sessions and the archive in the browser, on this machine only unless told otherwise."""
    require_extra()
    from flows.bucket import bucket_of
    from tape.dashboard.guard import LOOPBACK, Access
    from tape.dashboard.offers import offer_of
    from tape.dashboard.server import serve

    settings = load_settings(data_dir=data_dir)
    folder = existing(settings.data_dir).root.absolute()
    token = _token(settings.dashboard_token.get_secret_value() if settings.dashboard_token else None, token_file)
    if host not in LOOPBACK and token is None:
        raise SettingsError(
            f"--host {host}: others can reach it, so it needs a token; set TAPE_DASHBOARD_TOKEN or give --token-file"
        )
    hosts = (*LOOPBACK, host.lower(), socket.gethostname().lower(), *(name.lower() for name in allow_host or ()))
    access = Access(hosts if host not in LOOPBACK or allow_host else LOOPBACK, _prefix(root_path), token)
    with closing(_listen(host, port)) as listening:
        os.nice(_NICE)
        shown = f"[{host}]" if ":" in host else host
        report.line(f"http://{shown}:{listening.getsockname()[1]}{access.prefix}/ shows {folder}; Ctrl-C ends it")
        serve(offer_of(folder, settings, bucket_of(settings), metrics=metrics), access, listening)


@contextmanager
def dashboard_of(data_dir: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Serve the page of this data folder by a process of its own while the block runs; it prints its address."""
    require_extra()
    program = "from tape.start import main; main()"
    command = [sys.executable, "-c", program, "dashboard", "--data-dir", str(data_dir)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def require_extra() -> None:
    """Raise TerminalError if the extra that the page needs is not installed."""
    if importlib.util.find_spec("nicegui") is None:
        raise TerminalError("the web page needs the extra: pip install 'stock-tracing[dashboard]', or `make` anew")


def _token(configured: str | None, file: Path | None) -> str | None:
    if file is not None:
        try:
            configured = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"--token-file {file}: cannot be read; give a file with the token alone") from error
    if configured is not None and len(configured) < _SHORTEST_TOKEN:
        raise SettingsError(f"the token has fewer than {_SHORTEST_TOKEN} letters; `openssl rand -hex 20` makes one")
    return configured


def _prefix(root_path: str) -> str:
    parts = [part for part in root_path.split("/") if part]
    if not all(part.replace("-", "").replace("_", "").replace(".", "").isalnum() for part in parts):
        raise SettingsError(f"--root-path {root_path!r}: is not a path such as /tape")
    return "".join(f"/{part}" for part in parts)


def _listen(host: str, port: int | None) -> socket.socket:
    """Listen on the port, or on a free one if none was asked for and the usual one is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for each in (DEFAULT_PORT, 0) if port is None else (port,):
        try:
            return socket.create_server((host, each), family=family)
        except OSError as error:
            reason = error.strerror
    raise TerminalError(f"{host}:{port}: cannot listen there ({reason}); choose another --host or --port")
