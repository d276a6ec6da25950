"""From the raw maps of the head `nms_free_masks` to objects with masks.

`about` is featherbone.json; needs boxes.py, nms_free.py and mask_rcnn.py.
"""

from typing import Any

import boxes as ops
import numpy as np
from mask_rcnn import describe
from nms_free import best, by_cell


def decode(
    outputs: dict[str, Any],
    about: dict[str, Any],
    size: tuple[int, int],
    inner: tuple[int, int],
    score: float | None = None,
) -> list[dict[str, Any]]:
    """The objects of an image of `size` (height, width), `inner` on the input, with scores above `score`."""
    return describe(*objects(outputs, about["decode"], inner), about, size, inner, score)


def objects(
    outputs: dict[str, Any], how: dict[str, Any], inner: tuple[int, int], prefix: str = ""
) -> tuple[ops.Floats, ops.Floats, ops.Integers, ops.Floats]:
    """Boxes (n, 4) on the input, scores, labels and probabilities (n, grid, grid) over each box.

    `prefix` is that of the names of the outputs.
    """
    boxes, scores, labels, cells = best(outputs, how, inner, f"{prefix}cells_")
    coefficients = by_cell(outputs, f"{prefix}coefficients", how)[cells]
    maps = np.tensordot(coefficients, outputs[f"{prefix}prototypes"][0], 1)  # (n, h, w)
    masks = [_on_grid(values, box, how) for values, box in zip(maps, boxes, strict=True)]
    return boxes, scores, labels, ops.sigmoid(np.stack(masks))


def _on_grid(values: ops.Floats, box: ops.Floats, how: dict[str, Any]) -> ops.Floats:
    """A map (h, w) at the cells of a grid over a box (grid, grid)."""
    places = (np.arange(how["grid"]) + 0.5) / how["grid"]
    x1, y1, x2, y2 = box / how["prototype_stride"]
    rows, columns = y1 + places * (y2 - y1) - 0.5, x1 + places * (x2 - x1) - 0.5
    return _weights(rows, values.shape[0]) @ values @ _weights(columns, values.shape[1]).T


def _weights(places: ops.Floats, length: int) -> ops.Floats:
    """How much each value of a line counts at places of it (n, length), which are clamped to its ends."""
    return np.maximum(1 - np.abs(np.clip(places, 0, length - 1)[:, None] - np.arange(length)), 0)
