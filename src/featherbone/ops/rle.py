"""Masks as COCO's compressed run lengths: small however large the image, and read by every tool of the field."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco
from numpy.typing import NDArray

from featherbone.results import Rle

Bools = NDArray[np.bool_]


def encode(mask: Bools) -> Rle:
    """A mask (H, W) as run lengths."""
    return _as_text(coco.encode(np.asfortranarray(mask, np.uint8)))


def decode(rle: Rle) -> Bools:
    """The mask (H, W)."""
    return coco.decode(rle).astype(bool)


def from_runs(runs: Sequence[int], height: int, width: int) -> Rle:
    """Lengths of the runs of pixels column by column, outside and inside by turns, which are not checked."""
    return _as_text(coco.frPyObjects({"size": [height, width], "counts": list(runs)}, height, width))


def from_coco(segmentation: Any, height: int, width: int) -> Rle:
    """What COCO's `segmentation` holds (polygons x y x y ..., or run lengths as list or text) as run lengths.

    Polygons of fewer than three corners cover nothing. Raises `ValueError` for anything else, and for another size.
    """
    try:
        if isinstance(segmentation, dict):
            listed = isinstance(segmentation["counts"], list)
            found = _as_text(coco.frPyObjects(segmentation, height, width) if listed else segmentation)
            coco.decode(found)  # refuses what is damaged
        else:
            polygons = [list(map(float, polygon)) for polygon in segmentation]
            if any(len(polygon) % 2 for polygon in polygons):
                raise ValueError("a polygon with an odd number of coordinates")
            polygons = [polygon for polygon in polygons if len(polygon) >= 6] or [[0.0] * 6]
            found = _as_text(coco.merge(coco.frPyObjects(polygons, height, width)))
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"neither polygons nor run lengths ({error!r})") from None
    if found["size"] != [height, width]:
        raise ValueError(f"run lengths for a mask of {found['size']}, not of {[height, width]}")
    return found


def box_of(mask: Bools) -> tuple[int, int, int, int]:
    """The tight box x1 y1 x2 y2 of a mask (H, W); empty, all 0, where the mask is."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def areas(masks: Sequence[Rle]) -> NDArray[np.float64]:
    """Pixels that each mask covers (N,)."""
    return np.asarray(coco.area(list(masks)), np.float64).reshape(-1) if masks else np.zeros(0)


def iou(masks: Sequence[Rle], others: Sequence[Rle], crowd: Sequence[bool] | None = None) -> NDArray[np.float64]:
    """Intersection over union (N, M); over the area of `masks` alone where the other one is a `crowd`."""
    if not masks or not others:
        return np.zeros((len(masks), len(others)))
    return np.asarray(coco.iou(list(masks), list(others), [int(c) for c in crowd or [False] * len(others)]))


def _as_text(rle: Any) -> Rle:
    counts = rle["counts"]
    return {
        "size": [int(side) for side in rle["size"]],
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }
