"""Reads text files in bounded pieces of whole lines.

pyarrow's own streaming reader is not used: its read-ahead thread outlives an error and crashes the process.
"""

from collections.abc import Iterator
from typing import IO

import pyarrow as pa


def line_blocks(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield the file in pieces of whole lines of up to twice `size` bytes; the last line may lack its line feed.

    Raises pyarrow.ArrowInvalid if a line has more than `size` bytes; errors from reading the file pass through.
    """
    rest = b""
    while block := file.read(size):
        end = block.rfind(b"\n") + 1
        if end:
            yield rest + block[:end]
            rest = block[end:]
        else:
            rest += block
        if len(rest) > size:
            raise pa.ArrowInvalid(f"a line of more than {size:,} bytes")
    if rest:
        yield rest
