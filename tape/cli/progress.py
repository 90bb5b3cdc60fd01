"""How far has a long command come? A bar on a terminal's stderr, and nothing where there is no terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Told how many are done, and of how many.
Note = Callable[[int, int], None]


@contextmanager
def progress(what: str) -> Iterator[Note]:
    """Show a bar while the block lasts, moved by the note that is given; it vanishes with the block."""
    console = Console(stderr=True)
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
