"""XML files of annotation tools, read without entities, external files and deep nesting."""

import io
import re
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, iterparse

from featherbone.data.listing import read_head
from featherbone.errors import BadData

MAX_BYTES = 1 << 29
"""Size of the largest file that is read."""
MAX_DEPTH = 32
"""Tools need six levels."""


def read_xml(path: Path, name: str) -> Element:
    """The root element of a file. Raises `BadData`, which calls it `name`, also for a file that declares entities."""
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise BadData(f"{name}: {size:,} bytes; the maximum is {MAX_BYTES:,}; split it")
        content = path.read_bytes()
        if b"<!ENTITY" in content.replace(b"\0", b""):  # bytes 0 of UTF-16
            raise BadData(f"{name}: declares entities, which annotation tools do not write; remove the declarations")
        open_elements: list[Element] = []
        for event, element in iterparse(io.BytesIO(content), ("start", "end")):
            if event == "start":
                open_elements.append(element)
            else:
                root = open_elements.pop()
            if len(open_elements) > MAX_DEPTH:
                raise BadData(f"{name}: nested deeper than {MAX_DEPTH} levels; export it again")
        return root
    except BadData:
        raise
    except OSError as error:
        raise BadData(f"{name}: cannot be read ({error.strerror}); give a file that exists") from None
    except (ParseError, ValueError, LookupError) as error:
        raise BadData(f"{name}: not XML ({error}); export it again") from None


def root_of(path: Path) -> str:
    """The name of a file's root element, from its first bytes; empty where it has none."""
    head = read_head(path, 4096).replace(b"\0", b"")  # bytes 0 of UTF-16
    head = re.sub(rb"<!--.*?-->|<[?].*?[?]>|<!.*?>", b"", head, flags=re.DOTALL)
    found = re.match(rb"[^<]*<([A-Za-z_][\w.-]*)", head)
    return found[1].decode() if found else ""


def text_of(element: Element, path: str) -> str:
    """The text of an element below another, without spaces around it; empty where there is none."""
    return (element.findtext(path) or "").strip()


def number_of(text: str | None) -> float | None:
    """A finite number, or None for text that is not one."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if abs(value) < 1e9 else None
