"""Finds lines of `.env` that would be ignored silently.

python-dotenv drops a line that it cannot parse, treats a name without `=` as one without a value, and keeps the last of
two lines that set the same name. Each of these would leave a setting at its default.
"""

import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from tasks.errors import SettingsError
from tasks.feeds.registry import KEY_SETTINGS

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_OURS = ("TAPE_", *KEY_SETTINGS)
_OURS_BEGUN = re.compile(rf"\n\s*(?:export\s+)?(?:{'|'.join(_OURS)})[A-Z0-9_]*\s*=", re.IGNORECASE)


def check_env_file(path: Path) -> None:
    """Raise SettingsError with the line numbers if any line would be ignored. A missing file is fine.

    No text of the file is repeated: a line that cannot be parsed may contain a secret.
    """
    wrong = list(_wrong_lines(path)) if path.exists() or path.is_symlink() else []
    if wrong:
        raise SettingsError("\n".join(f"{path.absolute()}: {each}" for each in wrong))


def _wrong_lines(path: Path) -> Iterator[str]:
    if not path.is_file():
        yield "is not a file; it must hold settings, one NAME=value per line: rename or remove it"
        return
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        yield f"cannot be read ({error.strerror}); make it readable for this user"
        return
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        yield f"line {line} is not UTF-8; save the file as UTF-8"
        return
    found = list(parse_stream(io.StringIO(text)))
    unread = [_line(each) for each in found if _is_lost(each)]
    if unread:
        yield f"{_lines(unread)} cannot be parsed; write NAME=value, and close every quote"
    names = Counter(each.key.upper() for each in found if each.key and each.key.upper().startswith(_OURS))
    for name in (name for name, count in names.items() if count > 1):
        lines = [_line(each) for each in found if each.key and each.key.upper() == name]
        yield f"{_lines(lines)} set {name}; keep only one of them"


def _is_lost(binding: Binding) -> bool:
    """Whether a statement sets nothing, or swallows lines that would set something."""
    if binding.key is None:
        return binding.error
    lines = binding.original.string.strip()
    return binding.value is None or not _NAME.fullmatch(binding.key) or bool(_OURS_BEGUN.search(lines))


def _line(binding: Binding) -> int:
    """Return the line on which a statement begins; the parser includes the empty lines before it."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")


def _lines(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
    return f"line{'s' if len(numbers) > 1 else ''} {shown}"
