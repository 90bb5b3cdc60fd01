"""Adds symbols to a running session or removes them, for the command line and the web page."""

from collections.abc import Sequence

from flows.settings import load_settings
from tasks.storage.store import Store


def change_watched(action: str, symbols: Sequence[str], session: str | None, store: Store) -> list[str]:
    """Have the session follow a change of its symbols; return what was done, in one or two lines.

    `action` is added or removed. Raises SettingsError for what is no symbol, RecorderError if nothing can be changed.
    """
    from tasks.capture.supervise import change_symbols, recording_session

    folder, status = recording_session(store, session)
    given, adding = load_settings(symbols=symbols).symbols, action == "added"
    idle = [symbol for symbol in given if (symbol in status.symbols) == adding]
    changed = [symbol for symbol in given if symbol not in idle]
    lines = []
    if changed:
        change_symbols(
            folder, lambda now: (*now, *changed) if adding else [each for each in now if each not in changed]
        )
        lines.append(f"{folder.name}: {', '.join(changed)}: {action}, without a reconnect")
    if idle:
        lines.append(
            f"{folder.name}: {', '.join(idle)}: {'already recorded' if adding else 'not recorded'}, nothing to do"
        )
    return lines
