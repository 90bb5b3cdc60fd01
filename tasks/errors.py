"""What can go wrong, and whether trying again can help.

RecorderError
├── TransientError        the world may mend itself: the orchestrator tries again, with backoff
└── TerminalError         trying again gives the same answer: a person must act
    ├── SettingsError     a setting or an argument is wrong; nothing was started
    ├── CorruptionError   a file does not hold what its own record says
    └── ConflictError     the place is taken by something that differs; nothing was overwritten

Every message is one line that says what happened, where, and what to do next. None holds a secret.
"""

from typing import Any


class RecorderError(Exception):
    """The root of every error that this project raises on purpose."""


class TransientError(RecorderError):
    """The same call may succeed later: a peer is away, slow or restarting."""


class TerminalError(RecorderError):
    """The same call fails again until a person changes something."""


class SettingsError(TerminalError):
    """A setting or an argument is wrong. Raised before anything starts."""


class CorruptionError(TerminalError):
    """A file is not what its record says; names the file."""


class ConflictError(TerminalError):
    """Something that differs already stands where this was to be written; names both."""


def is_retryable(_task: Any, _run: Any, state: Any) -> bool:
    """Whether a task of Prefect's that ended in this state is to be tried again: its `retry_condition_fn`."""
    return isinstance(state.result(raise_on_failure=False), TransientError)
