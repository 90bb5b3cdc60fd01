"""How does a line of a file that only grows vouch for itself? It ends in the CRC-32 of the rest, after a tab."""

import zlib


def checked_line(text: bytes) -> bytes:
    """The text, without a line feed of its own, as such a line."""
    return b"%b\t%08x\n" % (text, zlib.crc32(text))


def text_of(line: bytes) -> bytes | None:
    """The text of such a line, given without its line feed; None where it is torn, damaged or of another form."""
    text, _, crc32 = line.rpartition(b"\t")
    return text if crc32 == b"%08x" % zlib.crc32(text) else None
