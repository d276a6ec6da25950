"""labelme's JSON files, one an image, beside it or in a folder of their own.

Rectangles are boxes; polygons, circles and masks are objects with masks; lines and points are no objects. Shapes with
one label and one `group_id` are parts of one object.
"""

import base64
import binascii
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from featherbone.data.formats import shapes
from featherbone.data.formats.format import Format, Opened, Reading
from featherbone.data.formats.named_objects import NamedImage, assemble, first_files, split_of_path
from featherbone.data.images import open_image
from featherbone.data.listing import below, list_files, read_head
from featherbone.data.named_files import NamedFiles
from featherbone.data.objects import Annotation
from featherbone.errors import BadData
from featherbone.files import read_json

NO_OBJECTS = frozenset(("point", "points", "line", "linestrip"))
"""Shapes that cover nothing."""
POLYGONS = frozenset(("polygon", "rotation", "oriented_rectangle", "quadrilateral"))
"""Shapes whose points are corners."""
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
"""Suffixes of images that a file of the same name belongs to, where it names none."""


class LabelmeShape(msgspec.Struct):
    """A shape as its file states it."""

    label: str | int
    points: list[tuple[float, float]]
    shape_type: str = "polygon"
    group_id: int | str | None = None
    mask: str | None = None
    """A PNG in Base64, of the part of the image between the two points."""


class Content(msgspec.Struct):
    """What is read of a file: `imageData`, a copy of the image, is not."""

    shapes: list[LabelmeShape] | None = None
    imagePath: str = ""
    imageHeight: float | None = None
    imageWidth: float | None = None


class Labelme(Format):
    """labelme's JSON files."""

    name = "labelme"

    def tasks(self, folder: Path) -> frozenset[str]:
        """Detection where one of the first JSON files has shapes, and instance where one has a shape with a mask."""
        heads = [read_head(path) for path in first_files(folder, ".json")]
        if not any(map(_has_shapes, heads)):
            return frozenset()
        masks = any(f'"{kind}"'.encode() in head for head in heads for kind in (*POLYGONS, "circle", "mask"))
        return frozenset(("detection", "instance") if masks else ("detection",))

    def open(self, folder: Path, task: str, split: str, reading: Reading) -> Opened | None:
        finders: dict[Path, NamedFiles] = {}
        files = [path for path in list_files(folder, (".json",)) if _has_shapes(read_head(path))]
        return assemble(folder, split, [_read(folder, path, finders) for path in files], reading, "JSON files")


def _has_shapes(head: bytes) -> bool:
    return b'"shapes"' in head and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def _read(root: Path, path: Path, finders: dict[Path, NamedFiles]) -> NamedImage:
    """What a file states; one that cannot be read has one object with `error`."""
    name, error = below(root, path), ""
    if path.parent not in finders:
        beside = [path.parent, path.parent.parent / "images"] if path.parent != root else [root, root / "images"]
        finders[path.parent] = NamedFiles(root, beside, name)
    try:
        content = read_json(path, name, Content, remedy="save it with labelme again")
    except BadData as fault:
        content, error = Content(), str(fault)
    names = [content.imagePath, *(path.stem + suffix for suffix in IMAGES)]
    height, width = content.imageHeight, content.imageWidth
    size = (int(height), int(width)) if height and width and min(height, width) >= 1 else None

    def read(shape: LabelmeShape, place: str) -> Annotation:
        return _shape(shape, size, place)

    stated = list(enumerate(content.shapes or [], 1))
    parts = [
        shapes.Part(f"{name}, shape {number}", str(shape.label), shape.group_id, shape)
        for number, shape in stated
        if shape.shape_type not in NO_OBJECTS
    ]
    return NamedImage(
        path=next((found for one in names if one and (found := finders[path.parent].find(one))), None),
        name=content.imagePath or path.name,
        objects=(Annotation(error=error),) if error else shapes.join_parts(parts, read),
        size=size,
        split=split_of_path(root, path),
        num_ignored=len(stated) - len(parts),
    )


def _shape(shape: LabelmeShape, size: tuple[int, int] | None, place: str) -> Annotation:
    """Where a shape is. Raises `ValueError` or `BadImage` with reason and remedy."""
    points = np.array(shape.points, np.float64).reshape(-1, 2)
    kind = shape.shape_type
    if not np.isfinite(points).all() or np.abs(points).max(initial=0) > 1e9:
        raise ValueError("points that are no places in an image; draw the shape again")
    if kind in POLYGONS:
        if len(points) < 3:
            raise ValueError(f"a polygon of {len(points)} points; draw three or more, or remove it")
        return shapes.polygon(points)
    if kind == "rectangle" and len(points) in (2, 4):
        return shapes.box(*points.min(0).tolist(), *points.max(0).tolist())
    if kind == "circle" and len(points) == 2:
        return shapes.ellipse(points[0].tolist(), (math.dist(*points.tolist()),) * 2)
    if kind == "mask" and len(points) == 2 and shape.mask:
        return _mask(shape.mask, points, size, place)
    known = "polygon, rectangle, circle or mask"
    raise ValueError(f"a {kind!r} of {len(points)} points, which is not read; draw it as {known}")


def _mask(text: str, points: Any, size: tuple[int, int] | None, place: str) -> Annotation:
    """A mask that is stored as the part of the image between two points, both included."""
    if size is None:
        raise ValueError("a mask without imageHeight and imageWidth; write the size of the image")
    (x1, y1), (x2, y2) = points.round().astype(int).tolist()
    shapes.check_part(x1, y1, x2 - x1 + 1, y2 - y1 + 1, size)
    try:
        encoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a mask that is not Base64; save the file with labelme again") from None
    with open_image(encoded, place) as picture:
        if picture.size != (x2 - x1 + 1, y2 - y1 + 1):
            stated = f"{x2 - x1 + 1}x{y2 - y1 + 1}"
            raise ValueError(f"a mask of {picture.width}x{picture.height} pixels in a box of {stated}; draw it again")
        return shapes.mask(np.asarray(picture.convert("L")) > 0, x1, y1, size)
