"""Lines of YOLO's label files: a class and a box, a polygon, or a box with values for other tasks.

| values | meaning |
|---|---|
| 5 | class, centre x and y, width and height: a box |
| 7, 9, 11, ... | class, x y x y ...: a polygon; 9 values are also how rotated boxes are written |
| 5 + 2 K or 5 + 3 K | a box and K keypoints, as x y or as x y and visibility 0, 1 or 2 |
| one more, a whole number | a track |

Coordinates are shares of the image's width and height.
"""

import codecs
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featherbone.data.objects import Annotation

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MAX_SHARE = 2
"""Largest coordinate, as a share of the image; an object may leave the image."""
_WRITE = "write class, centre x and y, width and height, or class and a polygon"


@dataclass(frozen=True)
class Row:
    """One line that is not blank."""

    where: str
    """File and number of the line."""
    label: float = -1
    shape: tuple[float, ...] = ()
    """Centre x and y, width and height, or at least three corners x y, in shares of the image; empty after an error."""
    ignored: str = ""
    """Further values that are not read: `keypoints` or `tracks`."""
    error: str = ""
    """Why it cannot be read, and what to write."""


def read_rows(path: Path, name: str, num_keypoint_values: int | None) -> list[Row]:
    """The lines of a label file called `name` in messages.

    `num_keypoint_values` is the number of keypoint values after a box by `kpt_shape` in the list: 0 for none, None
    where it is not stated.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        return [Row(name, error=f"cannot be read ({error.strerror}); change its permissions, or replace it")]
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as PowerShell writes it
    lines = content.decode("utf-16" if utf_16 else "utf-8-sig", errors="replace").splitlines()
    return [
        parse_row(line, f"{name}, line {number}", num_keypoint_values)
        for number, line in enumerate(lines, 1)
        if line.strip("\0 \t\r\n\f")
    ]


def parse_row(line: str, where: str, num_keypoint_values: int | None) -> Row:
    """Parse a line."""
    words = line.split()
    shown = repr(line.strip()[:80])
    if "," in line or ";" in line:
        return Row(where, error=f"{shown} has commas; separate values by spaces and write decimals with a point")
    wrong = next((word for word in words if not _NUMBER.fullmatch(word)), None)
    if wrong is not None:
        if len(words) >= 9 and all(map(_NUMBER.fullmatch, words[:8])):
            return Row(where, error=f"{shown} is in DOTA's form, corners first; export as YOLO OBB, class number first")
        return Row(where, error=f"{shown}: {wrong[:20]!r} is not a number; {_WRITE}")
    label, *shape = map(float, words)
    if not math.isfinite(label):
        return Row(where, error=f"{shown}: class {words[0][:20]} is too large; {_WRITE}")
    ignored = ""
    keypoints = _keypoint_values(shape, num_keypoint_values)
    if keypoints:
        shape, ignored = shape[:4], "keypoints"
    elif len(shape) >= 5 and len(shape) % 2 and words[-1].isdigit():
        shape, ignored = shape[:-1], "tracks"
    if num_keypoint_values and len(shape) != 4:
        total = 5 + num_keypoint_values
        return Row(where, error=f"{shown} has {len(words)} values, but kpt_shape means {total}; correct one of them")
    if len(shape) == 5:
        reason = "six values, as predictions saved with their confidence have; remove the last"
        return Row(where, error=f"{shown} has {reason}, or correct them first: they are not ground truth")
    if len(shape) < 4 or len(shape) % 2:
        return Row(where, error=f"{shown} has {len(words)} values; {_WRITE}")
    if max(map(abs, shape)) > _MAX_SHARE:
        largest = max(shape, key=abs)
        reason = f"{largest:g} is not a share of the image; write shares from 0 to 1, not pixels"
        return Row(where, error=f"{shown}: {reason}")
    return Row(where, label, tuple(shape), ignored)


def _keypoint_values(shape: Sequence[float], stated: int | None) -> int:
    """Number of keypoint values after the box."""
    rest = len(shape) - 4
    if stated:
        return stated if rest == stated else 0
    if stated is None and rest >= 3 and rest % 3 == 0 and set(shape[6::3]) <= {0, 1, 2}:
        return rest  # every third is a visibility
    return 0


def may_be_keypoints(rows: Sequence[Row]) -> bool:
    """Whether polygons may be boxes with keypoints x y, which a list without `kpt_shape` leaves open.

    All have the same number of values, all points from the third on are inside the box that the first four values
    would be, and a tenth or more of the polygons cross themselves, which drawn ones do not.
    """
    shapes = [row.shape for row in rows if len(row.shape) > 4]
    if not shapes or len({len(shape) for shape in shapes}) > 1 or len(shapes) < sum(not row.error for row in rows):
        return False
    points = np.array(shapes, np.float64).reshape(len(shapes), -1, 2)
    centres, halves, rest = points[:, :1], points[:, 1:2] / 2, points[:, 2:]
    inside = (np.abs(rest - centres) <= halves + 1e-3) | (rest == 0).all(2, keepdims=True)
    return bool(inside.all() and np.mean([_crosses_itself(polygon) for polygon in points[:500]]) >= 0.1)


def _crosses_itself(points: Any) -> bool:
    """Whether two sides of a polygon (N, 2) cross, or it has no area."""
    x, y = (points - points[0]).T
    if abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) < 1e-9:
        return True
    start, end = points, np.roll(points, -1, 0)
    one, other = (start[:, None], end[:, None]), (start[None], end[None])
    apart = _sides(*one, other[0]) * _sides(*one, other[1]) < 0
    return bool((apart & (_sides(*other, one[0]) * _sides(*other, one[1]) < 0)).any())


def _sides(a: Any, b: Any, points: Any) -> Any:
    """On which side of the lines from `a` to `b` (..., 2) points are: 1, -1, or 0 on the line."""
    (ax, ay), (bx, by), (x, y) = (np.moveaxis(value, -1, 0) for value in (a, b, points))
    return np.sign((bx - ax) * (y - ay) - (by - ay) * (x - ax))


def to_annotation(row: Row, num_classes: int) -> Annotation:
    """A row in shares of the image, its box as x1 y1 x2 y2."""
    if row.error:
        return Annotation(error=f"{row.where}: {row.error}")
    if row.label != int(row.label):
        allowed = f"write one from 0 to {num_classes - 1}"
        return Annotation(error=f"{row.where}: class {row.label:g} is not a whole number; {allowed}")
    number = int(row.label)
    if len(row.shape) == 4:
        x, y, w, h = row.shape
        corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    else:
        corners = (min(row.shape[::2]), min(row.shape[1::2]), max(row.shape[::2]), max(row.shape[1::2]))
    return Annotation(
        label=number if number in range(num_classes) else -1,
        box=corners,
        segmentation=[row.shape] if len(row.shape) > 4 else None,
        category_id=number,
    )
