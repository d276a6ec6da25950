"""Large images in overlapping tiles: where to cut, and how to join the detections in them (arXiv 2202.06934)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Tile = tuple[int, int, int, int]
"""x1 y1 x2 y2 in pixels of the image."""


def cut_windows(height: int, width: int, size: tuple[int, int], overlap: float) -> list[Tile]:
    """Tiles of `size`, height and width, that cover an image, row by row; neighbours share `overlap` of a side.

    The last column and row are shifted inward, so that every tile has its full size; a side of the image shorter than
    the tile's is taken whole. `overlap` is from 0 to 0.9.
    """
    if min(size) < 1 or not 0 <= overlap <= 0.9:
        raise ValueError(
            f"tiles of {size[1]}x{size[0]} pixels that overlap by {overlap} cannot be cut; give at least 1 pixel and 0 "
            "to 0.9"
        )
    rows, columns = _starts(height, size[0], overlap), _starts(width, size[1], overlap)
    return [(x, y, min(x + size[1], width), min(y + size[0], height)) for y in rows for x in columns]


def _starts(length: int, size: int, overlap: float) -> list[int]:
    step = max(size - round(size * overlap), 1)
    return [*range(0, length - size, step), max(length - size, 0)]


def merge_tiles(
    boxes: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike,
    sources: ArrayLike,
    tiles: Sequence[Tile],
    height: int,
    width: int,
    *,
    iou: float = 0.5,
    inside: float = 0.7,
    margin: float = 2.0,
) -> NDArray[np.intp]:
    """Indices of the objects to keep from overlapping tiles, highest-scoring first.

    boxes (n, 4) are in pixels of the whole image, which is `height` by `width`; sources (n,) is the index of the tile
    of each, and the whole image may be one of them. An object is cut where it comes within `margin` pixels of
    its tile's border inside the image. Of each class, whole objects come before cut ones, then higher scores; each is
    dropped where it overlaps one that is kept by more than `iou`, or where it is cut and more than the share
    `inside` of it is inside one that is kept from another tile.

    An object that no source shows whole stays in pieces: add the whole image, or let tiles overlap by more than the
    largest object.
    """
    boxes, scores = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(scores, np.float64)
    labels, sources = np.asarray(labels, np.int64), np.asarray(sources, np.int64)
    cut = _are_cut(boxes, np.asarray(tiles, np.float64).reshape(-1, 4)[sources], height, width, margin)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    order, kept = np.lexsort((-scores, cut)), []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[order, 2:]) - np.maximum(boxes[best, :2], boxes[order, :2])
        shared = sides.clip(0).prod(1)
        same = shared > iou * (areas[best] + areas[order] - shared)
        part = cut[order] & (sources[order] != sources[best]) & (shared > inside * areas[order])
        order = order[(labels[order] != labels[best]) | ~(same | part)]
    return np.array(sorted(kept, key=lambda i: -scores[i]), np.intp)


def _are_cut(
    boxes: NDArray[np.float64], tiles: NDArray[np.float64], height: int, width: int, margin: float
) -> NDArray[np.bool_]:
    """Whether each box (n, 4) touches a border of its tile (n, 4) that is not the image's."""
    outward = np.array((-1, -1, 1, 1))
    inner = tiles != np.array((0, 0, width, height))
    return (inner & ((tiles - boxes) * outward <= margin)).any(1)
