"""How is a text of lines read in bounded pieces, whatever it is?

pyarrow's own streaming reader reads ahead in a thread that outlives an error, and ends the process with it.
"""

from collections.abc import Iterator
from typing import IO

import pyarrow as pa


def line_blocks(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The file's bytes in pieces of whole lines, each of up to twice `size` bytes; the last line may lack its end.

    Raises pyarrow.ArrowInvalid where a line has more than `size` bytes, and what reading the file raises.
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
