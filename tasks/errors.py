"""The errors that this project raises, and whether a retry can help.

RecorderError
├── TransientError        may pass by itself: the orchestrator retries with backoff
└── TerminalError         a retry fails the same way: a person must act
    ├── SettingsError     a setting or an argument is wrong; nothing was started
    ├── CorruptionError   a file does not hold what its own record says
    └── ConflictError     something different is already there; nothing was overwritten

Every message is one line that says what happened, where, and what to do next. None holds a secret.
"""

from typing import Any


class RecorderError(Exception):
    """Base class of every error that this project raises on purpose."""


class TransientError(RecorderError):
    """The same call may succeed later: a peer is unreachable, slow, or restarting."""


class TerminalError(RecorderError):
    """The same call fails again until a person changes something."""


class SettingsError(TerminalError):
    """A setting or an argument is wrong. Raised before anything starts."""


class CorruptionError(TerminalError):
    """A file is not what its record says; names the file."""


class ConflictError(TerminalError):
    """Something different already exists where this was to be written; names both."""


def is_retryable(_task: Any, _run: Any, state: Any) -> bool:
    """Return whether Prefect should retry a task that ended in this state (`retry_condition_fn`)."""
    return isinstance(state.result(raise_on_failure=False), TransientError)
