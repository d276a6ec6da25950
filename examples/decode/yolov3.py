"""From the raw maps of YOLOv3 to objects. `about` is featherbone.json; needs boxes.py."""

from typing import Any

import boxes as ops
import numpy as np


def decode(
    outputs: dict[str, Any],
    about: dict[str, Any],
    size: tuple[int, int],
    inner: tuple[int, int],
    score: float | None = None,
) -> list[dict[str, Any]]:
    """The objects of an image of `size` (height, width), `inner` on the input, with scores above `score`."""
    how = about["decode"]
    levels = [_candidates(outputs[f"maps_{i}"][0], how, i) for i in range(len(how["strides"]))]
    boxes, scores, labels = (np.concatenate(parts) for parts in zip(*levels, strict=True))
    boxes = ops.cut(boxes, *inner)
    found = ops.select(boxes, scores, labels, how, how["shown"] if score is None else score)
    boxes, seen = ops.to_image(boxes[found], size, inner)
    return ops.describe(boxes[seen], scores[found][seen], labels[found][seen], about)


def _candidates(maps: Any, how: dict[str, Any], level: int) -> tuple[Any, Any, Any]:
    """Boxes (n, 4), scores and classes of the highest scores of a level's map (anchor * values, h, w)."""
    anchors, stride = np.float32(how["anchors"][level]), how["strides"][level]  # (A, 2), widths and heights
    _, height, width = maps.shape
    values = maps.reshape(len(anchors), -1, height, width)  # x, y, w, h, objectness, classes
    objectness = ops.sigmoid(values[:, 4:5])
    scores = objectness * ops.sigmoid(values[:, 5:]) * (objectness > np.float32(how["objectness"]))  # (A, K, h, w)
    order = np.argsort(-scores.reshape(-1), kind="stable")[: how["candidates"]]
    anchor, label, row, column = np.unravel_index(order, scores.shape)
    x, y, w, h = values[anchor, :4, row, column].T
    x, y = (column + ops.sigmoid(x)) * stride, (row + ops.sigmoid(y)) * stride
    w = anchors[anchor, 0] * np.exp(np.minimum(w, how["widest"]))
    h = anchors[anchor, 1] * np.exp(np.minimum(h, how["widest"]))
    boxes = np.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), 1)
    return boxes, scores.reshape(-1)[order], label
