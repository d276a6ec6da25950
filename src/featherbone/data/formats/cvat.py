"""CVAT's XML, as it exports "CVAT for images 1.1": `annotations.xml`, and images under `images/` or beside it.

Boxes, polygons, ellipses and masks are objects; tags, points, polylines, cuboids and skeletons are not. Polygons and
masks with one label and one group are parts of one object, as in CVAT's COCO export. The `subset` of an image is its
split; without subsets it is the folder in its name, or that of the XML file.
"""

import math
import re
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from featherbone.data.formats import shapes
from featherbone.data.formats.format import Format, Opened, Reading
from featherbone.data.formats.named_objects import NamedImage, assemble, first_files, split_of_path
from featherbone.data.formats.xml_files import number_of, read_xml, root_of, text_of
from featherbone.data.layouts import split_of
from featherbone.data.listing import below, list_files, read_head
from featherbone.data.named_files import NamedFiles, written_parts
from featherbone.data.objects import Annotation
from featherbone.errors import BadData

OBJECTS = frozenset(("box", "polygon", "mask", "ellipse"))
OTHERS = frozenset(("points", "polyline", "cuboid", "skeleton", "tag"))


class Cvat(Format):
    """CVAT's XML files."""

    name = "CVAT"

    def tasks(self, folder: Path) -> frozenset[str]:
        """Detection, and instance where the first bytes of a file hold a shape with a mask."""
        files = [path for path in first_files(folder, ".xml") if root_of(path) == "annotations"]
        if any(re.search(rb"<(polygon|mask|ellipse)\b", read_head(path, 1 << 22)) for path in files):
            return frozenset(("detection", "instance"))
        return frozenset(("detection",) if files else ())

    def open(self, folder: Path, task: str, split: str, reading: Reading) -> Opened | None:
        classes: dict[str, None] = {}
        images: list[NamedImage] = []
        for path in list_files(folder, (".xml",)):
            if root_of(path) == "annotations":
                name = below(folder, path)
                content = read_xml(path, name)
                classes |= dict.fromkeys(_labels(content, name))
                finder = NamedFiles(folder, (path.parent / "images", path.parent), name)
                images += [_read_image(folder, path, element, finder) for element in content.findall("image")]
        return assemble(folder, split, images, reading, "images", classes=tuple(classes))


def _labels(content: Element, name: str) -> list[str]:
    """Names of the classes that a file declares. Raises `BadData` for a file of tracks."""
    if content.find("track") is not None and content.find("image") is None:
        raise BadData(
            f"{name}: CVAT for video, whose tracks run over frames; export the task as CVAT for images 1.1 with "
            "images, or as COCO"
        )
    labels = [label for label in content.iterfind("meta//labels/label") if label.find("parent") is None]
    names = [text_of(label, "name") for label in labels if text_of(label, "type") not in OTHERS]
    return [one for one in names if one]


def _read_image(root: Path, path: Path, element: Element, finder: NamedFiles) -> NamedImage:
    name = element.get("name", "")
    where = f"{below(root, path)}, {name}"
    split = split_of(element.get("subset", "")) or split_of_path(root, root.joinpath(*written_parts(name)))
    height, width = (int(number_of(element.get(side)) or 0) for side in ("height", "width"))

    def read(shape: Element, place: str) -> Annotation:
        try:
            return _shape(shape, (height, width))
        except ValueError as error:
            raise ValueError(f"{shape.tag}: {error}") from None

    parts = []
    for number, one in enumerate((one for one in element if one.tag in OBJECTS), 1):
        group = one.get("group_id") if one.tag in ("polygon", "mask") else None
        parts.append(
            shapes.Part(f"{where}, object {number}", one.get("label", ""), None if group in ("", "0") else group, one)
        )
    return NamedImage(
        path=finder.find(name) if name else None,
        name=name,
        objects=shapes.join_parts(parts, read),
        size=(height, width) if min(height, width) > 0 else None,
        split=split or split_of_path(root, path) or split_of(path.stem),
        num_ignored=sum(one.tag in OTHERS for one in element),
    )


def _shape(element: Element, size: tuple[int, int]) -> Annotation:
    """Where a shape is. Raises `ValueError` with reason and remedy."""
    if element.tag == "mask":
        return _mask(element, size)
    if element.tag == "polygon":
        text = element.get("points", "")
        points = [number_of(word) for word in re.split("[,;]", text)]
        if len(points) < 6 or len(points) % 2 or None in points:
            raise ValueError(f"points {text[:60]!r}; write three or more as x,y;x,y;x,y")
        return shapes.polygon(points)
    turn = math.radians(_value(element, "rotation")) if element.get("rotation") else 0.0
    if element.tag == "ellipse":
        x, y, rx, ry = (_value(element, name) for name in ("cx", "cy", "rx", "ry"))
        return shapes.ellipse((x, y), (rx, ry), turn)
    x1, y1, x2, y2 = (_value(element, name) for name in ("xtl", "ytl", "xbr", "ybr"))
    if x2 < x1 or y2 < y1:
        raise ValueError(f"from {x1:g}, {y1:g} to {x2:g}, {y2:g}; write the upper left corner first")
    if not turn:
        return shapes.box(x1, y1, x2, y2)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * ((x2 - x1) / 2, (y2 - y1) / 2)
    return shapes.turned_polygon(corners, turn, ((x1 + x2) / 2, (y1 + y2) / 2))


def _mask(element: Element, size: tuple[int, int]) -> Annotation:
    """A mask, stored as runs along the rows of a part of the image, outside and inside in turn."""
    left, top, width, height = (int(_value(element, name)) for name in ("left", "top", "width", "height"))
    shapes.check_part(left, top, width, height, size)
    words = element.get("rle", "").split(",")
    if not all(re.fullmatch(r"\s*\d{1,9}\s*", word, re.ASCII) for word in words):
        raise ValueError("rle is not a list of whole numbers; export it again")
    runs = np.array(words, np.int64)
    if runs.sum() != width * height:
        raise ValueError(f"runs of {int(runs.sum()):,} pixels in a part of {width * height:,}; export it again")
    part = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return shapes.mask(part, left, top, size)


def _value(element: Element, name: str) -> float:
    value = number_of(element.get(name))
    if value is None:
        raise ValueError(f"{name} {element.get(name)!r} is not a number; write pixels")
    return value
