"""Lines of append-only files that end in a tab and the CRC-32 of the rest."""

import zlib


def checked_line(text: bytes) -> bytes:
    """Return the text, which has no line feed, as such a line."""
    return b"%b\t%08x\n" % (text, zlib.crc32(text))


def text_of(line: bytes) -> bytes | None:
    """Return the text of such a line without its line feed; None if it is torn, damaged, or in another format."""
    text, _, crc32 = line.rpartition(b"\t")
    return text if crc32 == b"%08x" % zlib.crc32(text) else None
