"""What a command's output may meet: pipes, devices, links, readers that leave, other encodings, and any text."""

import gzip
import os
import pty
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tasks.compress.parquet import compress
from tasks.records.names import BatchName
from tasks.storage.store import Store
from tasks.validate.schema import Limits
from tasks.validate.split import split

TAPE = str(Path(sys.executable).with_name("tape"))
NAME = BatchName("20261124T143000Z-9f3c01ab", 0, 0)
START_NS = 1_795_530_600_000_000_000
ODD = "[/x]币"
TAPE_TEXT = b"ts_event_ms,symbol,price,size,conditions\n1795530601000,AAPL,100.1,10,1\n"


@pytest.fixture
def archived(store: Store, sealed_batch: Any) -> Store:
    """A data folder with two archived trades, one of them of a symbol that no terminal should be trusted with."""
    lines = [
        f"1,{seq},{START_NS + seq * 10**9},{START_NS + seq * 10**9},{symbol},100.1,10,1\n".encode()
        for seq, symbol in enumerate(("AAPL", ODD), 1)
    ]
    sealed_batch(lines, name=NAME, opened_ns=START_NS, sealed_ns=START_NS + 10**10, per_symbol={"AAPL": 1, ODD: 1})
    split(store, NAME, Limits(None, None))
    compress(store, NAME)
    return store


def tape(store: Store, *words: str, **how: Any) -> "subprocess.CompletedProcess[bytes]":
    environment = {**os.environ, "TAPE_DATA_DIR": str(store.root), **how.pop("env", {})}
    return subprocess.run([TAPE, *words], env=environment, stdin=subprocess.DEVNULL, timeout=60, check=False, **how)


def test_an_export_to_a_pipe_is_read_by_who_waits_there(archived: Store, tmp_path: Path) -> None:
    """A FIFO is written to and stays one; with `.gz` at its end it gets the zipped tape."""
    for name, read in (("pipe", bytes), ("pipe.gz", gzip.decompress)):
        pipe, got = tmp_path / name, list[bytes]()
        os.mkfifo(pipe)
        reader = threading.Thread(target=lambda pipe=pipe, got=got: got.append(pipe.read_bytes()))
        reader.start()
        assert tape(archived, "export", str(pipe), capture_output=True).returncode == 0
        reader.join(20)
        assert read(got[0]).startswith(TAPE_TEXT)
        assert pipe.is_fifo()


def test_an_export_through_a_link_writes_what_it_points_to(archived: Store, tmp_path: Path) -> None:
    """The link stays a link, and its target is the tape; a directory is refused and left as it was."""
    target, link, folder = tmp_path / "target.csv", tmp_path / "link.csv", tmp_path / "folder"
    folder.mkdir()
    target.write_text("before")
    link.symlink_to(target)
    assert tape(archived, "export", str(link), capture_output=True).returncode == 0
    assert link.is_symlink()
    assert target.read_bytes().startswith(TAPE_TEXT)
    done = tape(archived, "export", str(folder), capture_output=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert not list(folder.iterdir())


def test_an_export_to_standard_output_is_the_tape_alone(archived: Store) -> None:
    """`tape export /dev/stdout` can be piped on: what is said of it goes to stderr."""
    done = tape(archived, "export", "/dev/stdout", capture_output=True)
    assert done.stdout.startswith(TAPE_TEXT)
    assert done.stdout.count(b"\n") == 3
    assert b"2 trades" in done.stderr


WORDS = (("ls",), ("show", "2026-11-24"), ("bars", ODD, "--date", "2026-11-24"), ("query", "select * from trades"))


@pytest.mark.parametrize("words", WORDS, ids=lambda words: words[0])
def test_any_text_and_any_encoding_end_no_command(archived: Store, words: tuple[str, ...]) -> None:
    """A symbol with markup and Chinese is shown as it is, also where only ASCII can be."""
    done = tape(archived, *words, capture_output=True, env={"PYTHONIOENCODING": "ascii", "LANG": "C"})
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"Traceback" not in done.stderr
    assert b"[/x]" in done.stdout or words[0] in ("ls", "bars")


def test_a_reader_that_leaves_and_a_closed_output_end_quietly(archived: Store) -> None:
    """`tape query … | head -1` says nothing; with a closed stdout a command ends as it would."""
    many = "select r.range, t.* from trades t, range(200000) r"
    command = f"'{TAPE}' query \"{many}\" --csv | head -1"
    environment = {**os.environ, "TAPE_DATA_DIR": str(archived.root)}
    done = subprocess.run(["/bin/bash", "-c", command], env=environment, capture_output=True, timeout=60, check=False)
    assert (done.stdout.count(b"\n"), done.stderr) == (1, b"")
    closed = subprocess.run(
        ["/bin/bash", "-c", f"'{TAPE}' ls >&-"], env=environment, capture_output=True, timeout=60, check=False
    )
    assert (closed.returncode, closed.stderr) == (0, b"")


def test_the_version_is_told() -> None:
    """`tape --version` prints what records say of the software."""
    done = subprocess.run([TAPE, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("stock-tracing 0.")


@pytest.mark.parametrize(("words", "shown"), [(("verify",), b"sessions verified"), (("export", "out.csv"), b"trades")])
def test_a_long_command_shows_how_far_it_is_on_a_terminal_alone(
    archived: Store, tmp_path: Path, words: tuple[str, ...], shown: bytes
) -> None:
    """On a terminal a bar moves on stderr; in a pipe there is none."""
    master, terminal = pty.openpty()
    done = tape(archived, *words, stdout=subprocess.DEVNULL, stderr=terminal, cwd=tmp_path, env={"TERM": "xterm"})
    os.close(terminal)
    seen = b""
    with suppress(OSError):
        while some := os.read(master, 65_536):
            seen += some
    os.close(master)
    assert done.returncode in (0, 1)
    assert shown in seen
    assert tape(archived, *words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=tmp_path).stderr == b""


def test_a_shell_can_complete_words_and_options() -> None:
    """What typer's completion scripts ask for is answered: commands, and the options of a command."""
    for words, count, wanted in (("tape re", "1", "replay"), ("tape record --fe", "2", "--feed")):
        asked = {"_TAPE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": count}
        done = subprocess.run([TAPE], env={**os.environ, **asked}, capture_output=True, text=True, timeout=60)
        assert (wanted in done.stdout.split(), done.stderr) == (True, "")
