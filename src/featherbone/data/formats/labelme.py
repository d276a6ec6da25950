"""labelme's JSON files, one an image, beside it or in a folder of their own.

Rectangles are boxes; polygons, circles and masks are objects with masks; lines and points are no objects. Shapes with
one label and one `group_id` are parts of one object.
"""

import base64
import binascii
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from featherbone.data.formats.named_objects import (
    MAX_PIXELS,
    NamedImage,
    NamedObject,
    assemble,
    box_shape,
    fill_splits,
    find_classes,
    first_files,
    images_without,
    join_shapes,
    mask_shape,
    polygon_shape,
    split_of_path,
)
from featherbone.data.images import open_image
from featherbone.data.listing import list_files
from featherbone.data.named_files import NamedFiles
from featherbone.data.objects import Opened
from featherbone.errors import BadData, BadImage
from featherbone.files import read_json

NO_OBJECTS = frozenset(("point", "points", "line", "linestrip"))
"""Shapes that cover nothing."""
POLYGONS = frozenset(("polygon", "rotation", "oriented_rectangle", "quadrilateral"))
"""Shapes whose points are corners."""
NUM_CORNERS = 64
"""Corners of the polygon that stands for a circle."""


class Shape(msgspec.Struct):
    """A shape as its file states it."""

    label: str | int
    points: list[tuple[float, float]]
    shape_type: str = "polygon"
    group_id: int | str | None = None
    mask: str | None = None
    """A PNG in Base64, of the part of the image between the two points."""


class Content(msgspec.Struct):
    """What is read of a file: `imageData`, a copy of the image, is not."""

    shapes: list[Shape] | None = None
    imagePath: str = ""
    imageHeight: float | None = None
    imageWidth: float | None = None


@dataclass(frozen=True)
class _File:
    path: Path
    image: Path | None
    named: str
    """What it names its image."""
    size: tuple[int, int] | None
    objects: tuple[NamedObject, ...]
    num_ignored: int = 0
    """Shapes that are no objects."""


class Labelme:
    """labelme's format in the registry of formats."""

    name = "labelme"

    def matches(self, folder: Path) -> bool:
        """Whether one of the first JSON files in the usual places has shapes."""
        return any(map(_has_shapes, first_files(folder, ".json")))

    def tasks(self, folder: Path) -> frozenset[str]:
        """Detection, and instance where one of the first files has a shape with a mask."""
        heads = (_head(path) for path in first_files(folder, ".json"))
        masks = any(f'"{kind}"'.encode() in head for head in heads for kind in (*POLYGONS, "circle", "mask"))
        return frozenset(("detection", "instance") if masks else ("detection",))

    def open(self, folder: Path, split: str, unlabelled: str, check: bool) -> Opened | None:
        """As `Format.open`."""
        finders: dict[Path, NamedFiles] = {}
        files = [_read(folder, path, finders) for path in list_files(folder, (".json",)) if _has_shapes(path)]
        splits, notes = fill_splits([split_of_path(folder, file.path) for file in files], "JSON files")
        files_of = [file for file, of in zip(files, splits, strict=True) if of == split]
        if not files_of:
            return None
        names = (one.name for file in files for one in file.objects if not one.error)
        classes, class_list = find_classes(folder, names)
        images = [NamedImage(file.image, file.objects, file.size) for file in files_of if file.image]
        missing = [file.named or file.path.name for file in files_of if not file.image]
        unlisted = images_without(folder, images, [file.image for file in files if file.image])
        notes = notes if split == "train" else []
        if count := sum(file.num_ignored for file in files_of):
            notes.append(f"{count:,} lines and points are no objects, and are not read")
        return assemble(folder, images, classes, class_list, check, missing, unlisted, unlabelled, notes)


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 16)
    except OSError:
        return b""


def _has_shapes(path: Path) -> bool:
    head = _head(path)
    return b'"shapes"' in head and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def _read(root: Path, path: Path, finders: dict[Path, NamedFiles]) -> _File:
    """What a file states; one that cannot be read has one object with `error`."""
    name = path.relative_to(root).as_posix()
    if path.parent not in finders:
        beside = [path.parent, path.parent.parent / "images"] if path.parent != root else [root, root / "images"]
        finders[path.parent] = NamedFiles(root, beside, name)
    error = ""
    try:
        content = read_json(path, name, Content, remedy="save it with labelme again")
    except BadData as fault:
        content, error = Content(), str(fault).removeprefix(f"{name}: ")
    stems = [path.stem + suffix for suffix in (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")]
    finder = finders[path.parent]
    image = next((found for named in (content.imagePath, *stems) if named and (found := finder.find(named))), None)
    height, width = content.imageHeight, content.imageWidth
    size = (int(height), int(width)) if height and width and min(height, width) >= 1 else None
    if error:
        return _File(path, image, content.imagePath, size, (NamedObject(name, error=error),))
    shapes = content.shapes or []
    kept = [(f"{name}, shape {number}", shape) for number, shape in enumerate(shapes, 1)]
    kept = [(where, shape) for where, shape in kept if shape.shape_type not in NO_OBJECTS]
    groups: dict[Any, list[tuple[str, Shape]]] = {}
    for where, shape in kept:
        key = where if shape.group_id is None else (str(shape.label), shape.group_id)
        groups.setdefault(key, []).append((where, shape))
    objects = tuple(_object(of, size) for of in groups.values())
    return _File(path, image, content.imagePath, size, objects, len(shapes) - len(kept))


def _object(parts: Sequence[tuple[str, Shape]], size: tuple[int, int] | None) -> NamedObject:
    """The object that shapes with one label and group make."""
    where, label = parts[0][0], str(parts[0][1].label).strip()
    if not label:
        return NamedObject(where, error="no label; write the class of the object")
    shapes = []
    for place, shape in parts:
        try:
            shapes.append(_shape(shape, size, place))
        except (ValueError, BadImage) as error:
            return NamedObject(place, error=str(error).removeprefix(f"{place}: "))
    return NamedObject(where, label, join_shapes(shapes))


def _shape(shape: Shape, size: tuple[int, int] | None, where: str) -> dict[str, Any]:
    """A shape in COCO's form. Raises `ValueError` or `BadImage` with reason and remedy."""
    points = np.array(shape.points, np.float64).reshape(-1, 2)
    kind = shape.shape_type
    if not np.isfinite(points).all() or np.abs(points).max(initial=0) > 1e9:
        raise ValueError("points that are no places in an image; draw the shape anew")
    if kind in POLYGONS:
        if len(points) < 3:
            raise ValueError(f"a polygon of {len(points)} points; draw three or more, or remove it")
        return polygon_shape([points.ravel().tolist()])
    if kind == "rectangle" and len(points) in (2, 4):
        (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
        return box_shape(x1, y1, x2, y2)
    if kind == "circle" and len(points) == 2:
        centre, radius = points[0], math.dist(*points.tolist())
        turns = np.arange(NUM_CORNERS) * (2 * np.pi / NUM_CORNERS)
        corners = centre + radius * np.column_stack([np.cos(turns), np.sin(turns)])
        return polygon_shape([corners.ravel().tolist()])
    if kind == "mask" and len(points) == 2 and shape.mask:
        return mask_shape(_mask(shape.mask, points, size, where))
    known = "polygon, rectangle, circle or mask"
    raise ValueError(f"a {kind!r} of {len(points)} points, which is not read; draw it as {known}")


def _mask(text: str, points: Any, size: tuple[int, int] | None, where: str) -> Any:
    """The mask (H, W) of the image, from that of the part between two points, both included."""
    if size is None:
        raise ValueError("a mask without imageHeight and imageWidth; write the size of the image")
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"a mask in an image of {size[1]}x{size[0]} pixels, at most {MAX_PIXELS:,} in all; correct it")
    (x1, y1), (x2, y2) = points.round().astype(int).tolist()
    try:
        encoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a mask that is not Base64; save the file with labelme again") from None
    with open_image(encoded, where) as picture:
        if picture.size != (x2 - x1 + 1, y2 - y1 + 1):
            stated = f"{x2 - x1 + 1}x{y2 - y1 + 1}"
            raise ValueError(f"a mask of {picture.width}x{picture.height} pixels in a box of {stated}; draw it anew")
        part = np.asarray(picture.convert("L")) > 0
    if min(x1, y1) < 0 or x2 >= size[1] or y2 >= size[0]:
        raise ValueError(f"a mask that leaves the image of {size[1]}x{size[0]} pixels; draw it anew")
    mask = np.zeros(size, bool)
    mask[y1 : y2 + 1, x1 : x2 + 1] = part
    return mask
