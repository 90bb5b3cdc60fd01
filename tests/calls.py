"""Records which changes to the disk this process asks for, and in which order.

    with recorded() as calls:
        compress(store, name)
    assert calls.at_risk() == []

The functions of `os`, and the `open` that pathlib uses, are wrapped, so that what our own Python asks for is seen, from
any thread; what a library writes from C++ is not. `recorded(before)` is given each call just before it is made.

`killed_everywhere` runs a program over and over in processes of its own, each killed before another of these calls.
"""

import builtins
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Call:
    """One change: open (for writing), create, write, truncate, sync, rename, unlink, mkdir or rmdir."""

    kind: str
    path: Path
    to: Path | None = None


@dataclass(slots=True)
class Calls:
    """What was recorded, in order."""

    all: list[Call] = field(default_factory=list)
    before: Callable[[Call], None] = lambda call: None
    _names: dict[int, Path] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, path: Any, to: Any = None) -> None:
        call = Call(kind, self._path(path), None if to is None else Path(os.fsdecode(to)))
        with self._lock:
            self.all.append(call)
        self.before(call)

    def place(self, kind: str, path: Path, start: int = 0) -> int:
        """Where the first such call stands from `start` on; of a rename, `path` is the new name."""
        for place, call in enumerate(self.all[start:], start):
            if call.kind == kind and (call.to or call.path) == path:
                return place
        raise AssertionError(f"no {kind} of {path} after call {start}: {self.all[start:]}")

    def last(self, kind: str, path: Path) -> int:
        """Where the last such call stands."""
        return len(self.all) - 1 - Calls(self.all[::-1]).place(kind, path)

    def at_risk(self) -> list[str]:
        """What a loss of power could undo although a later step relies on it; empty where everything is in order.

        A file is synced after it is last written and before it is renamed. Each new name is synced in its folder
        before any file is removed that is not unfinished, and in the end. Locks and unfinished files count for nothing.
        """
        wrong, unsynced, unnamed = list[str](), set[Path](), dict[Path, Path]()
        for call in self.all:
            path = call.path
            if call.kind in {"create", "open", "write", "truncate"}:
                unsynced.add(path)
            if call.kind in {"create", "mkdir"} and not _is_passing(path):
                unnamed[path] = path.parent
            elif call.kind == "sync":
                unsynced.discard(path)
                unnamed = {name: folder for name, folder in unnamed.items() if folder != path}
            elif call.kind == "rename" and call.to is not None:
                if path in unsynced:
                    wrong.append(f"{path} is renamed before it is synced")
                unnamed.pop(path, None)
                unnamed[call.to] = call.to.parent
            elif call.kind == "unlink" and not _is_passing(path):
                unnamed.pop(path, None)
                wrong += [f"{path} is removed before the name of {name} is synced" for name in unnamed]
        return wrong + [f"the name of {name} is never synced" for name in unnamed]

    def opened(self, descriptor: int, path: Any) -> None:
        self._names[descriptor] = self._path(path)

    def closed(self, descriptor: int) -> None:
        self._names.pop(descriptor, None)

    def _path(self, path: Any) -> Path:
        return self._names.get(path, Path(f"/descriptor/{path}")) if isinstance(path, int) else Path(os.fsdecode(path))


def _is_passing(path: Path) -> bool:
    """Whether that is a lock, or something unfinished, whose loss is none."""
    return path.suffix == ".lock" or any(part.startswith(".") for part in path.parts)


class _File:
    """A file object that tells of its writes."""

    def __init__(self, file: Any, path: Any, calls: Calls) -> None:
        self._file, self._path, self._calls = file, path, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)

    def write(self, content: Any) -> Any:
        self._calls.note("write", self._path)
        return self._file.write(content)

    def truncate(self, size: int | None = None) -> Any:
        self._calls.note("truncate", self._path)
        return self._file.truncate(size)


@contextmanager
def recorded(before: Callable[[Call], None] = lambda call: None) -> Iterator[Calls]:
    """Record the changes that this process makes meanwhile. `before` may raise: then the change is not made."""
    calls = Calls(before=before)
    real = {name: getattr(os, name) for name in _WRAPPED}
    real_open = io.open

    def open_file(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return real_open(file, mode, *arguments, **options)
        calls.note("open" if os.path.exists(file) else "create", file)  # noqa: PTH110
        return _File(real_open(file, mode, *arguments, **options), file, calls)

    def open_descriptor(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            is_new = flags & os.O_CREAT and not os.path.lexists(path)
            calls.note("create" if is_new else "open", path)
        descriptor: int = real["open"](path, flags, *arguments, **options)
        calls.opened(descriptor, path)
        return descriptor

    def close(descriptor: int) -> None:
        calls.closed(descriptor)
        real["close"](descriptor)

    def noted(name: str, kind: str) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if kind != "unlink" or os.path.lexists(path):
                calls.note(kind, path, arguments[0] if kind == "rename" else None)
            return real[name](path, *arguments, **options)

        return call

    def mkdir(path: Any, *arguments: Any, **options: Any) -> None:
        if not os.path.lexists(path) and os.path.isdir(Path(path).parent):  # noqa: PTH112
            calls.note("mkdir", path)
        real["mkdir"](path, *arguments, **options)

    try:
        for name, kind in _WRAPPED.items():
            setattr(os, name, noted(name, kind))
        os.open, os.close, os.mkdir = open_descriptor, close, mkdir
        io.open = builtins.open = open_file  # type: ignore[assignment]
        yield calls
    finally:
        for name, function in real.items():
            setattr(os, name, function)
        io.open = builtins.open = real_open


_WRAPPED = {
    "open": "open", "close": "close", "mkdir": "mkdir", "write": "write", "pwrite": "write", "truncate": "truncate",
    "ftruncate": "truncate", "fsync": "sync", "fdatasync": "sync", "rename": "rename", "replace": "rename",
    "unlink": "unlink", "remove": "unlink", "rmdir": "rmdir",
}  # fmt: skip


_KILLED = """
import os, shutil, signal, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from calls import recorded

{program}

root = Path(sys.argv[2])

def work_killed(at):
    seen, me = 0, os.getpid()
    def before(*_):
        nonlocal seen
        seen += 1
        if seen == at:
            os.kill(me, signal.SIGKILL)
    sys.addaudithook(lambda event, _: before() if event == "http.client.send" else None)
    with recorded(before):
        work(root / str(at), at)

for at in range(1, 400):
    child = os.fork()
    if child == 0:
        shutil.copytree(root / "start", root / str(at))
        try:
            work_killed(at)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        sys.exit(print(at) or os.waitstatus_to_exitcode(status))
sys.exit("it never ended")
"""


def killed_everywhere(root: Path, program: str, *arguments: str) -> list[Path]:
    """Run `work(folder, number)` of that program in a copy of `root/start`, killed before its first change, its
    second and so on, or before a request to a store; gives the copies, of which the last was not killed.
    """
    run = subprocess.run(
        [sys.executable, "-c", _KILLED.replace("{program}", program), str(Path(__file__).parent), str(root),
         *arguments],
        env={**os.environ, "POLARS_MAX_THREADS": "1", "ARROW_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return [root / str(at) for at in range(1, int(run.stdout) + 1)]
