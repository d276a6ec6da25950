"""From the outputs of Mask R-CNN to objects with masks. `about` is featherbone.json; needs boxes.py."""

from typing import Any

import boxes as ops
import numpy as np
from numpy.typing import NDArray


def decode(
    outputs: dict[str, Any],
    about: dict[str, Any],
    size: tuple[int, int],
    inner: tuple[int, int],
    score: float | None = None,
) -> list[dict[str, Any]]:
    """The objects of an image of `size` (height, width), `inner` on the input, with scores above `score`."""
    boxes, scores, labels, masks = (outputs[name][0] for name in ("boxes", "scores", "labels", "masks"))
    return describe(boxes, scores, labels, masks, about, size, inner, score)


def describe(
    boxes: Any,
    scores: Any,
    labels: Any,
    masks: Any,
    about: dict[str, Any],
    size: tuple[int, int],
    inner: tuple[int, int],
    score: float | None,
) -> list[dict[str, Any]]:
    """Objects with scores above `score` as plain values, from boxes on the input and probabilities over each."""
    how = about["decode"]
    above = scores > np.float32(how["shown"] if score is None else score)
    boxes, seen = ops.to_image(boxes[above], size, inner)
    objects = ops.describe(boxes[seen], scores[above][seen], labels[above][seen], about)
    pairs = zip(objects, masks[above][seen], strict=True)
    return [{**found, "mask": paste(mask, found["box"], size, how["mask_threshold"])} for found, mask in pairs]


def paste(mask: Any, box: list[float], size: tuple[int, int], threshold: float) -> NDArray[np.bool_]:
    """Probabilities (M, M) over a box of the image as the mask of the image (H, W)."""
    rows = _weights(box[1], box[3], size[0], mask.shape[0])
    columns = _weights(box[0], box[2], size[1], mask.shape[1])
    return rows @ mask.astype(np.float64) @ columns.T >= threshold


def _weights(low: float, high: float, length: int, cells: int) -> NDArray[np.float64]:
    """How much each cell of a side of a box counts for each pixel of a line of the image (length, cells)."""
    places = (np.arange(length) + 0.5 - low) / (high - low) * cells - 0.5
    return np.maximum(1 - np.abs(places[:, None] - np.arange(cells)), 0)
