"""Text is read in bounded pieces of lines; an overlong line raises an error and nothing worse."""

import gzip
import io
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.archive.csv_files import HEADER
from tasks.archive.line_blocks import line_blocks

ROOT = Path(__file__).parents[3]


@given(st.lists(st.binary(max_size=8).map(lambda line: line.replace(b"\n", b""))), st.integers(9, 40))
def test_blocks_are_the_text_in_whole_lines(lines: list[bytes], size: int) -> None:
    """The joined pieces are the text; each but the last ends with a line feed, and none exceeds twice the size."""
    text = b"\n".join(lines)
    blocks = list(line_blocks(io.BytesIO(text), size))
    assert b"".join(blocks) == text
    assert all(block.endswith(b"\n") for block in blocks[:-1])
    assert all(0 < len(block) <= 2 * size for block in blocks)


def test_a_line_that_is_too_long_is_refused() -> None:
    """An overlong line raises an error before more than twice the size is in memory."""
    with pytest.raises(pa.ArrowInvalid, match="a line of more than 100 bytes"):
        list(line_blocks(io.BytesIO(b"x" * 1_000), 100))


@pytest.mark.parametrize("encoding", ["csv.gz", "csv.zst"])
def test_a_file_of_one_long_line_is_an_error_and_no_abort(tmp_path: Path, encoding: str) -> None:
    """A process that reads an overlong line exits normally: no reader thread is left running."""
    path = tmp_path / f"x.{encoding}"
    text = HEADER + b"x" * (40 << 20)
    if encoding == "csv.gz":
        path.write_bytes(gzip.compress(text, 1))
    else:
        path.write_bytes(pa.Codec("zstd").compress(text, asbytes=True))
    program = """
import sys
from pathlib import Path
from tasks.errors import CorruptionError
from tasks.archive.encodings import read_groups
try:
    list(read_groups(Path(sys.argv[1])))
except CorruptionError as error:
    print(error)
"""
    for _ in range(4):
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "a line of more than" in done.stdout
