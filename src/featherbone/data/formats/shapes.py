"""Shapes that annotation tools draw, as objects with boxes and masks in pixels."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from featherbone.data.objects import Annotation
from featherbone.errors import BadImage
from featherbone.ops import rle

MAX_PIXELS = 1 << 28
"""Pixels of the largest image whose masks are read."""
NUM_CORNERS = 64
"""Corners of the polygon that replaces an ellipse."""


class Part(NamedTuple):
    """A shape in a file: an object, or a part of the object of all shapes with its label and group."""

    place: str
    label: str
    group: Any
    """None for an object of one shape."""
    shape: Any


def unreadable(place: str, reason: str) -> Annotation:
    """An object that cannot be read; `reason` ends with what to do."""
    return Annotation(place=place, error=f"{place}: {reason}")


def box(x1: float, y1: float, x2: float, y2: float) -> Annotation:
    """A box, x1 y1 x2 y2 in pixels."""
    return Annotation(box=(x1, y1, x2 - x1, y2 - y1))


def polygon(points: Any) -> Annotation:
    """A polygon with corners (N, 2) in pixels, three or more."""
    flat = np.asarray(points, np.float64).ravel().tolist()
    return Annotation(box=rle.outline([flat], 0, 0), segmentation=[flat])


def turned_polygon(points: Any, angle: float, centre: Sequence[float]) -> Annotation:
    """A polygon with corners (N, 2) around the origin, turned clockwise by `angle` in radians and moved to `centre`."""
    cos, sin = np.cos(angle), np.sin(angle)
    return polygon(points @ np.array([[cos, sin], [-sin, cos]]) + centre)


def ellipse(centre: Sequence[float], radii: Sequence[float], angle: float = 0.0) -> Annotation:
    """An ellipse as a polygon, turned clockwise by `angle` in radians."""
    turns = np.arange(NUM_CORNERS) * (2 * np.pi / NUM_CORNERS)
    return turned_polygon(np.column_stack([radii[0] * np.cos(turns), radii[1] * np.sin(turns)]), angle, centre)


def check_part(left: int, top: int, width: int, height: int, size: tuple[int, int]) -> None:
    """Raise `ValueError` where a part of an image of `size`, height and width, is not inside it."""
    if not 0 < size[0] * size[1] <= MAX_PIXELS:
        raise ValueError(f"an image of {size[1]}x{size[0]} pixels, of 1 to {MAX_PIXELS:,} in all; correct its size")
    if min(left, top) < 0 or min(width, height) < 1 or left + width > size[1] or top + height > size[0]:
        raise ValueError(
            f"a mask of {width}x{height} pixels at {left}, {top} is not inside the image of {size[1]}x{size[0]}; draw "
            "it again"
        )


def mask(part: rle.Bools, left: int, top: int, size: tuple[int, int]) -> Annotation:
    """A mask in an image of `size`, of which `part` is a part that passed `check_part`."""
    whole = np.zeros(size, bool)
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    return box(*rle.box_of(whole))._replace(segmentation=rle.encode(whole))


def join_parts(parts: Iterable[Part], read: Callable[[Any, str], Annotation]) -> tuple[Annotation, ...]:
    """The objects of an image; `read(shape, place)` raises `ValueError` or `BadImage` for a shape without sense."""
    groups: dict[Any, list[Part]] = {}
    for part in parts:
        groups.setdefault(part.place if part.group is None else (part.label, part.group), []).append(part)
    return tuple(_join(group, read) for group in groups.values())


def _join(parts: Sequence[Part], read: Callable[[Any, str], Annotation]) -> Annotation:
    place, name = parts[0].place, parts[0].label.strip()
    if not name:
        return unreadable(place, "no label; write the class of the object")
    shapes = []
    for part in parts:
        try:
            shapes.append(read(part.shape, part.place))
        except (ValueError, BadImage) as error:
            return unreadable(part.place, str(error).removeprefix(f"{part.place}: "))
    return _union(shapes)._replace(name=name, place=place)


def _union(shapes: Sequence[Annotation]) -> Annotation:
    """All pixels of several shapes, or where none has pixels the box around all."""
    if len(shapes) == 1:
        return shapes[0]
    boxes = np.array([shape.box for shape in shapes], np.float64)
    whole = box(*boxes[:, :2].min(0).tolist(), *(boxes[:, :2] + boxes[:, 2:]).max(0).tolist())
    if not any(shape.segmentation for shape in shapes):
        return whole
    given = [shape.segmentation or [_corners(shape.box)] for shape in shapes]
    size = next((segmentation["size"] for segmentation in given if isinstance(segmentation, dict)), None)
    if size is None:
        return whole._replace(segmentation=[flat for polygons in given for flat in polygons])
    masks = [rle.decode(rle.from_coco(segmentation, *size)) for segmentation in given]
    return whole._replace(segmentation=rle.encode(np.any(masks, axis=0)))


def _corners(box: Sequence[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]
