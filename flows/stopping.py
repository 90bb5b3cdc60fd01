"""How does a person, or the system, end a command that records? In order the first time, at once the second."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Handler = Callable[[int, FrameType | None], None]
# The handler of the command that runs in this process, while there is one.
_ours: list[Handler] = []


@contextmanager
def ended_in_order(tell: Callable[[str], None]) -> Iterator[None]:
    """A first Ctrl-C, SIGTERM or closed terminal ends the recording in order; a second one ends this process at once.

    In order: what was received is sealed and archived. Where nothing records yet, the first one ends the command too.
    """
    from tasks.capture.supervise import watched

    told = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal told
        if told:
            os._exit(128 + number)  # Whatever still waits, on the network or on a lock, is not waited for.
        told = True
        if not watched:
            raise KeyboardInterrupt
        for recorder in watched:
            recorder.stop()
        # Said only now: whoever takes it at its word must not leave behind a recorder that goes on to its deadline.
        with suppress(OSError):  # The terminal may be gone.
            tell("ending the recording in order; once more leaves at once, without archiving")

    # Who was started to survive its terminal (nohup) is left to.
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
    """Take back the signals that Prefect takes when a flow starts; nothing where no command of ours runs here.

    Prefect's own handler ends a run by an exception in the middle of whatever it does: right for a worker's run,
    which is cancelled so, and not for somebody who presses Ctrl-C.
    """
    if _ours and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _ours[-1])
