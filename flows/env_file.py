"""Which lines of `.env` would be lost without a word, were it read as it is?

python-dotenv drops a line that it cannot parse, takes a name without `=` for one without a value, and keeps the last
of two lines that set the same name. Each of these leaves a setting at its default.
"""

import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from tasks.errors import SettingsError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_OURS = ("TAPE_", "FINNHUB_")
_OURS_BEGUN = re.compile(r"\n\s*(?:export\s+)?(?:TAPE_|FINNHUB_)[A-Z0-9_]+\s*=", re.IGNORECASE)


def check_env_file(path: Path) -> None:
    """Raises SettingsError, with the lines, where the file cannot be read whole. One that is absent is well.

    No text of the file is repeated: a line that cannot be parsed may hold a secret.
    """
    wrong = list(_wrong_lines(path)) if path.exists() or path.is_symlink() else []
    if wrong:
        raise SettingsError("\n".join(f"{path.absolute()}: {each}" for each in wrong))


def _wrong_lines(path: Path) -> Iterator[str]:
    if not path.is_file():
        yield "is not a file; it holds settings, one NAME=value a line: rename or remove what stands there"
        return
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        yield f"cannot be read ({error.strerror}); give this user the right to read it"
        return
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        yield f"line {line} is not UTF-8; save the file as UTF-8"
        return
    found = list(parse_stream(io.StringIO(text)))
    unread = [_line(each) for each in found if _is_lost(each)]
    if unread:
        yield f"{_lines(unread)} cannot be read; write NAME=value, and end what a quote begins"
    names = Counter(each.key.upper() for each in found if each.key and each.key.upper().startswith(_OURS))
    for name in (name for name, count in names.items() if count > 1):
        lines = [_line(each) for each in found if each.key and each.key.upper() == name]
        yield f"{_lines(lines)} set {name}; keep one of them"


def _is_lost(binding: Binding) -> bool:
    """Whether a statement sets nothing, or swallows lines that would set something."""
    if binding.key is None:
        return binding.error
    lines = binding.original.string.strip()
    return binding.value is None or not _NAME.fullmatch(binding.key) or bool(_OURS_BEGUN.search(lines))


def _line(binding: Binding) -> int:
    """The line that a statement begins in; the parser counts the empty lines before it as its own."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")


def _lines(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
    return f"line{'s' if len(numbers) > 1 else ''} {shown}"
