"""Handles Ctrl-C and signals of a recording command: stop cleanly the first time, at once the second."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Handler = Callable[[int, FrameType | None], None]
# The handler of the command running in this process, if any.
_ours: list[Handler] = []


@contextmanager
def ended_in_order(tell: Callable[[str], None]) -> Iterator[None]:
    """Stop the recording cleanly on a first Ctrl-C, SIGTERM, or closed terminal; on a second one exit at once.

    Cleanly means that everything received is sealed and archived. If nothing is recording yet, the first one also ends
    the command.
    """
    from tasks.capture.supervise import watched

    told = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal told
        if told:
            os._exit(128 + number)  # Do not wait for the network or a lock.
        told = True
        if not watched:
            raise KeyboardInterrupt
        for recorder in watched:
            recorder.stop()
        # Printed only now: a user who believes it must not leave behind a recorder that runs to its deadline.
        with suppress(OSError):  # The terminal may be gone.
            tell("stopping the recording cleanly; a second signal exits at once, without archiving")

    # A process started to survive its terminal (nohup) keeps ignoring the signal.
    numbers = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    _ours.append(stop)
    try:
        yield
    finally:
        _ours.remove(stop)
        for number, handler in before.items():
            signal.signal(number, handler)


def heed_signals_again() -> None:
    """Reinstall our signal handlers, which Prefect replaces when a flow starts; does nothing in a worker.

    Prefect's handler raises an exception in the middle of the run. That is right for canceling a worker's run, but not
    for a user who presses Ctrl-C.
    """
    if _ours and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _ours[-1])
