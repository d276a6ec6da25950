"""XML files of annotation tools, read without entities, external files and deep nesting."""

import re
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from featherbone.errors import BadData

MAX_BYTES = 1 << 29
"""Size of the largest file that is read."""
MAX_DEPTH = 32
"""Tools need six levels."""


def read_xml(path: Path, name: str) -> Element:
    """The root element of a file. Raises `BadData`, which calls it `name`, also for a file that declares entities."""
    builder, parser = TreeBuilder(), expat.ParserCreate()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise BadData(f"{name}: nested deeper than {MAX_DEPTH} levels; export it again")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise BadData(f"{name}: declares entities, which annotation tools do not write; remove the declarations")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse  # type: ignore[assignment]
    parser.buffer_text = True
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise BadData(f"{name}: {size:,} bytes; the maximum is {MAX_BYTES:,}; split it")
        parser.Parse(path.read_bytes(), True)
        return builder.close()
    except BadData:
        raise
    except OSError as error:
        raise BadData(f"{name}: cannot be read ({error.strerror}); give a file that exists") from None
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise BadData(f"{name}: not XML ({error}); export it again") from None


def root_of(path: Path) -> str:
    """The name of a file's root element, from its first bytes; empty where it has none."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096).replace(b"\0", b"")  # of UTF-16
    except OSError:
        return ""
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
