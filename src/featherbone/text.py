"""Names that come from outside, as text that can be shown."""

import re

_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` with U+FFFD for what no file or terminal takes as text: control characters, bytes that are not UTF-8.

    Files are opened by their real names, in which Python keeps such bytes as lone surrogates.
    """
    return _NO_TEXT.sub("\ufffd", text)


def to_bytes(text: str) -> bytes:
    """Bytes to hash, which differ for any two texts, whatever a file's name holds."""
    return text.encode("utf-8", "surrogatepass")
