"""No line of `.env` is lost without a word."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from flows.settings import load_settings
from tasks.errors import SettingsError


@pytest.fixture(autouse=True)
def env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The `.env` of a working folder, not there yet, in an environment without our variables."""
    for name in list(os.environ):
        if name.upper().startswith(("TAPE_", "FINNHUB_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".env"


def refusal() -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings()
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"TAPE_LANES=2\nTAPE_CALENDAR=XLON\n",
        b"\xef\xbb\xbfTAPE_LANES=2\nTAPE_CALENDAR=XLON\n",
        b"TAPE_LANES=2\r\n\r\nTAPE_CALENDAR=XLON\r\n",
        b"export TAPE_LANES=2\n  export  TAPE_CALENDAR = XLON  ",
        b"# a comment\n\nTAPE_LANES=2   # two\nTAPE_CALENDAR='XLON' # London\n",
        b"TAPE_LANES=\"2\"\ntape_calendar='XLON'\nTAPE_BATCH_FOR=\nTAPE_S3_BUCKET=''\n",
        b"OTHER=1\nOTHER=2\nTAPE_LANES=2\nTAPE_CALENDAR=XLON\nPREFECT_API_URL=http://127.0.0.1:4200/api\n",
        b"NOTE=\"two\nlines\"\nTAPE_LANES=2\nTAPE_CALENDAR=XLON\n",
    ],
)  # fmt: skip
def test_what_people_write_is_read(env_file: Path, content: bytes) -> None:
    """A mark of byte order, line ends of Windows, `export`, quotes, comments and others' names change nothing."""
    env_file.write_bytes(content)
    settings = load_settings()
    assert (settings.lanes, settings.calendar, settings.s3_bucket) == (2, "XLON", None)


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("TAPE_LANES=2\n\nTAPE_S3_BUCKET: PRIVATE\n", "line 3"),
        ("TAPE_LANES=2\r\n\r\nTAPE_S3_BUCKET: PRIVATE\r\nTAPE_SYMBOLS PRIVATE\r\n", "lines 3, 4"),
        ("TAPE_S3_BUCKET:PRIVATE\n", "line 1"),
        ("TAPE_S3_SECRET_ACCESS_KEY:PRIVATE=\n", "line 1"),
        ("TAPE_S3_BUCKET\n", "line 1"),
        ("=PRIVATE\n", "line 1"),
        ("- PRIVATE\n- PRIVATE\n" * 4, "lines 1, 2, 3, 4, 5 and 3 more"),
        ("# c\nTAPE_SYMBOLS=\"PRIVATE\nTAPE_LANES=2\n", "line 2"),
        ("TAPE_SYMBOLS='PRIVATE\n", "line 1"),
        ("TAPE_SYMBOLS=\"PRIVATE\nTAPE_LANES=2\nA=\"", "line 1"),
        ("A=\"PRIVATE\nexport FINNHUB_API_KEY=PRIVATE\nB=\"\n", "line 1"),
        ("TAPE_S3_BUCKET='PRIVATE' PRIVATE\n", "line 1"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_parsed_is_one_error_with_its_number(
    env_file: Path, caplog: pytest.LogCaptureFixture, content: str, lines: str
) -> None:
    """One error names the file and the lines, and repeats nothing of them; nothing else is said."""
    env_file.write_text(content)
    with caplog.at_level(logging.DEBUG):
        told = refusal()
    assert told.startswith(f"{env_file}: {lines} cannot be parsed; write NAME=value")
    assert "\n" not in told
    assert "PRIVATE" not in told
    assert caplog.text == ""


def test_a_setting_that_is_set_twice_is_named_with_its_lines(env_file: Path) -> None:
    """Which of the two is meant cannot be known, also where one is empty; case makes no difference."""
    env_file.write_text("TAPE_LANES=2\nTAPE_S3_BUCKET=a\nOTHER=1\ntape_s3_bucket=\nOTHER=2\nTAPE_LANES=2\n")
    assert refusal().splitlines() == [
        f"{env_file}: lines 1, 6 set TAPE_LANES; keep only one of them",
        f"{env_file}: lines 2, 4 set TAPE_S3_BUCKET; keep only one of them",
    ]


def test_what_is_not_text_is_named_with_its_line(env_file: Path) -> None:
    """A file in another encoding is refused as such."""
    env_file.write_bytes("TAPE_LANES=2\n# Börse\n".encode("latin-1"))
    assert refusal() == f"{env_file}: line 2 is not UTF-8; save the file as UTF-8"


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to("gone"), os.mkfifo])
def test_what_is_no_file_is_refused(env_file: Path, make: Any) -> None:
    """A folder, as a container's mount leaves it, a link to nowhere or a pipe holds no settings: that is said."""
    make(env_file)
    assert refusal().startswith(f"{env_file}: is not a file")


def test_a_file_that_may_not_be_read_is_named(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that this user may not open is not taken for none."""
    if os.geteuid() == 0:  # Root may read whatever its mode; a file that ends the reading otherwise must do.
        env_file.symlink_to("/proc/self/mem")
    else:
        env_file.write_text("TAPE_LANES=2\n")
        env_file.chmod(0)
    assert refusal().startswith(f"{env_file}: cannot be read")


def test_the_command_says_so_and_ends_with_2(tape: Any) -> None:
    """`tape` starts nothing, and prints the one line."""
    (tape.folder / ".env").write_text("TAPE_S3_BUCKET: market-tape\n")
    done = tape.run("record", "AAPL", "--for", "5s")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == f"tape: {tape.folder}/.env: line 1 cannot be parsed; write NAME=value, and close every quote\n"
    )
    assert not tape.data.exists()
