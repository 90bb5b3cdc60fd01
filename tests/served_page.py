"""Serves the page of generated sessions, for the tests: `python served_page.py PORT '{"extra": 500}'`."""

import json
import socket
import sys
from typing import Any

from generated_session import Generated

from tape.dashboard.guard import LOOPBACK, Access
from tape.dashboard.hub import Hub
from tape.dashboard.server import Offer, serve
from tasks.errors import SettingsError


def change(session: str, action: str, symbols: list[str]) -> str:
    """Accept letters alone, as a real session checks what it is given."""
    if not all(symbol.isalpha() for symbol in symbols):
        raise SettingsError(f"{symbols[0]!r} is no symbol")
    return f"{', '.join(symbols)}: {action}"


def main() -> None:
    port, options = int(sys.argv[1]), json.loads(sys.argv[2])
    sessions: list[str] = options.pop("sessions", ["20261124T143000Z-9f3c01ab"])
    access = Access(LOOPBACK, options.pop("prefix", ""), options.pop("token", None))
    known: dict[str, Any] = {}

    def follow(session: str) -> Generated:
        # The same session again after all tabs have closed.
        return known.setdefault(session, Generated(session=session, **options))

    offer = Offer(
        hub=lambda: Hub(lambda: tuple(sessions), follow),
        change=change,
        last_end=lambda: "It ended.",
        archive=dict,
        metrics=True,
    )
    serve(offer, access, socket.create_server(("127.0.0.1", port)))


if __name__ == "__main__":
    main()
