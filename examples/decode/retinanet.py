"""From the raw maps of RetinaNet to objects. `about` is featherbone.json; needs boxes.py."""

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
    levels = [
        _candidates(outputs[f"logits_{i}"][0], outputs[f"deltas_{i}"][0], how, i) for i in range(len(how["strides"]))
    ]
    boxes, scores, labels = (np.concatenate(parts) for parts in zip(*levels, strict=True))
    boxes = ops.cut(boxes, *inner)
    found = ops.select(boxes, scores, labels, how, how["shown"] if score is None else score)
    boxes, seen = ops.to_image(boxes[found], size, inner)
    return ops.describe(boxes[seen], scores[found][seen], labels[found][seen], about)


def _candidates(logits: Any, deltas: Any, how: dict[str, Any], level: int) -> tuple[Any, Any, Any]:
    """Boxes (n, 4), scores and classes of the highest logits (anchor * class, h, w) of a level."""
    anchors, stride = np.float32(how["anchors"][level]), how["strides"][level]  # (A, 4) about a cell's corner
    channels, height, width = logits.shape
    order = np.argsort(-logits.reshape(-1), kind="stable")[: how["candidates"]]
    channel, row, column = np.unravel_index(order, logits.shape)
    anchor, label = np.divmod(channel, channels // len(anchors))
    corner = np.stack((column, row, column, row), 1) * np.float32(stride)
    x1, y1, x2, y2 = (anchors[anchor] + corner).T
    shifts = deltas.reshape(len(anchors), 4, height, width)[anchor, :, row, column]
    dx, dy, dw, dh = (shifts / np.float32(how["weights"])).T
    w = (x2 - x1) * np.exp(np.clip(dw, -how["widest"], how["widest"]))
    h = (y2 - y1) * np.exp(np.clip(dh, -how["widest"], how["widest"]))
    x, y = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
    boxes = np.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), 1)
    return boxes, ops.sigmoid(logits.reshape(-1)[order]), label
