"""CVAT's XML, as it exports "CVAT for images 1.1": `annotations.xml`, and images under `images/` or beside it.

Boxes, polygons, ellipses and masks are objects; tags, points, polylines, cuboids and skeletons are not. Polygons and
masks with one label and one group are parts of one object, as in CVAT's COCO export. The `subset` of an image is its
split; without subsets it is the folder in its name, or that of the XML file.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from featherbone.data.formats.named_objects import (
    MAX_PIXELS,
    NamedImage,
    NamedObject,
    assemble,
    box_shape,
    fill_splits,
    first_files,
    images_without,
    join_shapes,
    mask_shape,
    polygon_shape,
    split_of_path,
)
from featherbone.data.formats.xml_files import number_of, read_xml, root_of, text_of
from featherbone.data.layouts import split_of
from featherbone.data.listing import list_files
from featherbone.data.named_files import NamedFiles, written_parts
from featherbone.data.objects import Opened
from featherbone.errors import BadData

OBJECTS = frozenset(("box", "polygon", "mask", "ellipse"))
OTHERS = frozenset(("points", "polyline", "cuboid", "skeleton", "tag"))
NUM_CORNERS = 64
"""Corners of the polygon that stands for an ellipse."""


@dataclass(frozen=True)
class _Listed:
    """An image that a file lists."""

    name: str
    path: Path | None
    size: tuple[int, int] | None
    split: str | None
    objects: tuple[NamedObject, ...]
    num_ignored: int
    """Shapes that are no objects."""


class Cvat:
    """CVAT's format in the registry of formats."""

    name = "CVAT"

    def matches(self, folder: Path) -> bool:
        """Whether there is an XML file whose root is `annotations` in one of the usual places."""
        return any(root_of(path) == "annotations" for path in first_files(folder, ".xml"))

    def tasks(self, folder: Path) -> frozenset[str]:
        """Detection, and instance where the first bytes of a file hold a shape with a mask."""
        for path in first_files(folder, ".xml"):
            with open(path, "rb") as file:
                if re.search(rb"<(polygon|mask|ellipse)\b", file.read(1 << 22)):
                    return frozenset(("detection", "instance"))
        return frozenset(("detection",))

    def open(self, folder: Path, split: str, unlabelled: str, check: bool) -> Opened | None:
        """As `Format.open`."""
        files = [path for path in list_files(folder, (".xml",)) if root_of(path) == "annotations"]
        classes: dict[str, None] = {}
        listed: list[_Listed] = []
        for path in files:
            name = path.relative_to(folder).as_posix()
            content = read_xml(path, name)
            classes |= dict.fromkeys(_labels(content, name))
            finder = NamedFiles(folder, (path.parent / "images", path.parent), name)
            listed += [_read_image(folder, path, element, finder) for element in content.findall("image")]
        splits, notes = fill_splits([one.split for one in listed], "images")
        chosen = [one for one, of in zip(listed, splits, strict=True) if of == split]
        if not chosen:
            return None
        names = tuple(classes) or tuple(sorted({of.name for one in listed for of in one.objects if of.name}))
        images = [NamedImage(one.path, one.objects, one.size) for one in chosen if one.path]
        missing = [one.name for one in chosen if not one.path]
        unlisted = images_without(folder, images, [one.path for one in listed if one.path])
        notes = notes if split == "train" else []
        if count := sum(one.num_ignored for one in chosen):
            notes.append(f"{count:,} points, polylines, cuboids, skeletons and tags are no objects, and are not read")
        return assemble(
            folder, images, names, "the labels of the XML file", check, missing, unlisted, unlabelled, notes
        )


def _read_image(root: Path, path: Path, element: Element, finder: NamedFiles) -> _Listed:
    """An image of a file."""
    name = element.get("name", "")
    split = split_of(element.get("subset", "")) or split_of_path(root, root.joinpath(*written_parts(name)))
    height, width = (int(number_of(element.get(side)) or 0) for side in ("height", "width"))
    return _Listed(
        name=name,
        path=finder.find(name) if name else None,
        size=(height, width) if min(height, width) > 0 else None,
        split=split or split_of_path(root, path) or split_of(path.stem),
        objects=_objects(element, (height, width), f"{path.relative_to(root).as_posix()}, {name}"),
        num_ignored=sum(one.tag in OTHERS for one in element),
    )


def _labels(content: Element, name: str) -> list[str]:
    """Names of the classes that a file declares. Raises `BadData` for a file of tracks."""
    if content.find("track") is not None and content.find("image") is None:
        raise BadData(
            f"{name}: CVAT for video, whose tracks run over frames; export the task as CVAT for images 1.1 with "
            "images, or as COCO"
        )
    names = []
    for label in content.iterfind("meta//labels/label"):
        if label.find("parent") is None and text_of(label, "type") not in OTHERS:
            names.append(text_of(label, "name"))
    return [one for one in dict.fromkeys(names) if one]


def _objects(element: Element, size: tuple[int, int], where: str) -> tuple[NamedObject, ...]:
    """The objects of an image; parts of one object are joined."""
    groups: dict[Any, list[tuple[Element, str]]] = {}
    for number, one in enumerate((one for one in element if one.tag in OBJECTS), 1):
        group = one.get("group_id") if one.tag in ("polygon", "mask") else None
        key = (one.get("label"), group) if group and group != "0" else number
        groups.setdefault(key, []).append((one, f"{where}, object {number}"))
    return tuple(_object(parts, size) for parts in groups.values())


def _object(parts: list[tuple[Element, str]], size: tuple[int, int]) -> NamedObject:
    element, where = parts[0]
    label = (element.get("label") or "").strip()
    if not label:
        return NamedObject(where, error="no label; write the class of the object")
    shapes = []
    for part, place in parts:
        try:
            shapes.append(_shape(part, size))
        except ValueError as error:
            return NamedObject(place, error=f"{part.tag}: {error}")
    return NamedObject(where, label, join_shapes(shapes))


def _shape(element: Element, size: tuple[int, int]) -> dict[str, Any]:
    """A shape in COCO's form. Raises `ValueError` with reason and remedy."""
    if element.tag == "mask":
        return mask_shape(_mask(element, size))
    if element.tag == "polygon":
        text = element.get("points", "")
        points = [number_of(word) for word in re.split("[,;]", text)] if text else []
        if len(points) < 6 or len(points) % 2 or None in points:
            raise ValueError(f"points {text[:60]!r}; write three or more as x,y;x,y;x,y")
        return polygon_shape([[value for value in points if value is not None]])
    turn = math.radians(_value(element, "rotation") if element.get("rotation") else 0.0)
    if element.tag == "ellipse":
        x, y, rx, ry = (_value(element, name) for name in ("cx", "cy", "rx", "ry"))
        turns = np.arange(NUM_CORNERS) * (2 * np.pi / NUM_CORNERS)
        return polygon_shape([_turned(x, y, np.column_stack([rx * np.cos(turns), ry * np.sin(turns)]), turn)])
    x1, y1, x2, y2 = (_value(element, name) for name in ("xtl", "ytl", "xbr", "ybr"))
    if x2 < x1 or y2 < y1:
        raise ValueError(f"from {x1:g}, {y1:g} to {x2:g}, {y2:g}; write the upper left corner first")
    if not turn:
        return box_shape(x1, y1, x2, y2)
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * ((x2 - x1) / 2, (y2 - y1) / 2)
    return polygon_shape([_turned((x1 + x2) / 2, (y1 + y2) / 2, half, turn)])


def _turned(x: float, y: float, points: Any, angle: float) -> list[float]:
    """Points (N, 2) around the origin, turned clockwise in the image and moved to x, y: x y x y ..."""
    cos, sin = math.cos(angle), math.sin(angle)
    turned = points @ np.array([[cos, sin], [-sin, cos]]) + (x, y)
    return turned.ravel().tolist()


def _mask(element: Element, size: tuple[int, int]) -> Any:
    """The mask (H, W), from runs along the rows of a part of the image, outside and inside by turns."""
    height, width = size
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"an image of {width}x{height} pixels, of 1 to {MAX_PIXELS:,} in all; correct its size")
    left, top, w, h = (int(_value(element, name)) for name in ("left", "top", "width", "height"))
    if min(left, top) < 0 or min(w, h) < 1 or left + w > width or top + h > height:
        raise ValueError(f"{w}x{h} pixels at {left}, {top} are not inside the image of {width}x{height}; draw it anew")
    words = element.get("rle", "").split(",")
    if not all(re.fullmatch(r"\s*\d{1,9}\s*", word, re.ASCII) for word in words):
        raise ValueError("rle that is not a list of whole numbers; export it anew")
    runs = np.array(words, np.int64)
    if runs.sum() != w * h:
        raise ValueError(f"runs of {int(runs.sum()):,} pixels in a part of {w * h:,}; export it anew")
    part = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(h, w)
    mask = np.zeros((height, width), bool)
    mask[top : top + h, left : left + w] = part
    return mask


def _value(element: Element, name: str) -> float:
    value = number_of(element.get(name))
    if value is None:
        raise ValueError(f"{name} {element.get(name)!r} is not a number; write pixels")
    return value
