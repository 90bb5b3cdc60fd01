"""Recorder: a separate process that records one session and does not depend on the process that started it.

`python -m tasks.capture.recorder SESSION_FOLDER`, with the API key as the first line of standard input: an argument or
an environment variable would show in the process list. SIGTERM and SIGINT end the session in order.

Exit status: 0 if the session ended in order, 1 if it failed (see `session.json` and the log), 2 for wrong usage, 3 if
another recorder holds the key or the session.
"""

import logging
import os
import signal
import sys
from pathlib import Path

from tasks.capture.request import read_request
from tasks.capture.session import Session
from tasks.storage.locks import SESSION_LOCK, acquire, forget_unused, key_lock_path

log = logging.getLogger(__name__)

FAILED, USAGE, BUSY = 1, 2, 3


class Bounded(logging.Filter):
    """Limits the log to so many characters; a last line says that the rest is left out.

    A feed influences how much is logged. What ends the recorder is in the session's record too.
    """

    def __init__(self, most_chars: int = 8 << 20) -> None:
        super().__init__()
        self._left = most_chars

    def filter(self, record: logging.LogRecord) -> bool:
        if self._left < 0:
            return False
        self._left -= len(record.getMessage()) + 32
        if self._left < 0:
            record.msg, record.args = "this log is full: further messages are left out", ()
        return True


class _StopSignals:
    """Handles the signals from the start: one that arrives before the session exists stops it once it does."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._stop = False

    def on_signal(self, _number: int, _frame: object) -> None:
        self._stop = True
        if self._session is not None:
            self._session.stop()

    def watch(self, session: Session) -> Session:
        self._session = session
        if self._stop:
            session.stop()
        return session


def main(arguments: list[str]) -> int:
    """Record the session in that folder; return the exit status."""
    if len(arguments) != 1:
        print("usage: python -m tasks.capture.recorder SESSION_FOLDER   (the key on standard input)", file=sys.stderr)
        return USAGE
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s")
    logging.getLogger().handlers[0].addFilter(Bounded())
    signals = _StopSignals()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signals.on_signal)
    folder = Path(arguments[0])
    request = read_request(folder.resolve())
    key = sys.stdin.readline().rstrip("\n")
    lock_path = key_lock_path(request.feed_url, key)
    key_lock = acquire(lock_path)
    session_lock = acquire(folder / SESSION_LOCK) if key_lock is not None else None
    if key_lock is None or session_lock is None:
        log.error("another recorder holds this %s", "API key" if key_lock is None else "session")
        return BUSY
    key_lock.write(str(folder.resolve()))
    session_lock.write(str(os.getpid()))
    forget_unused(lock_path.parent)
    record = signals.watch(Session(request, key)).run()
    return 0 if record.outcome != "failed" else FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
