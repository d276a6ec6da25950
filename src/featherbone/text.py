"""Names from file systems and data sets as text that can be shown or hashed."""

import re

_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` with U+FFFD for control characters and for bytes that are not UTF-8.

    Only for display: Python keeps such bytes as lone surrogates, and files are opened by that original name.
    """
    return _NO_TEXT.sub("\ufffd", text)


def to_bytes(text: str) -> bytes:
    """Bytes to hash: different for any two texts, also with lone surrogates."""
    return text.encode("utf-8", "surrogatepass")
