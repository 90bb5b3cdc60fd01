"""Keeps tracebacks of expected errors off the terminal; Prefect's UI still has them."""

import copy
import logging

from tasks.errors import RecorderError


def expected_errors_in_a_line() -> None:
    """Leave the tracebacks of our own errors out of Prefect's lines on this terminal.

    Call this after Prefect has set up its logging; what it sends to its API is not affected.
    """
    for name in ("", "prefect"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and handler.formatter is not None:
                handler.setFormatter(_Plain(handler.formatter))


class _Plain(logging.Formatter):
    """Formats like another formatter, but without the tracebacks of our own errors."""

    def __init__(self, whole: logging.Formatter) -> None:
        super().__init__()
        self._whole = whole

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info and isinstance(record.exc_info[1], RecorderError):
            record = copy.copy(record)  # The other handlers' record keeps it.
            record.exc_info = record.exc_text = None
        return self._whole.format(record)
