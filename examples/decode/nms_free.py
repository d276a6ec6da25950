"""From the raw maps of the head `nms_free` to objects. `about` is featherbone.json; needs boxes.py."""

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
    boxes, scores, labels, _ = best(outputs, how, inner)
    above = scores > np.float32(how["shown"] if score is None else score)
    boxes, seen = ops.to_image(boxes[above], size, inner)
    return ops.describe(boxes[seen], scores[above][seen], labels[above][seen], about)


def best(
    outputs: dict[str, Any], how: dict[str, Any], inner: tuple[int, int], prefix: str = ""
) -> tuple[ops.Floats, ops.Floats, ops.Integers, ops.Integers]:
    """Boxes (n, 4) on the input, scores, labels and cells of the highest logits, highest first.

    `prefix` is that of the names of the outputs.
    """
    logits = by_cell(outputs, f"{prefix}logits", how)  # (N, K)
    order = np.argsort(-logits.reshape(-1), kind="stable")[: how["limit"]]
    cells, labels = np.divmod(order, logits.shape[1])
    corners = []
    for level, stride in enumerate(how["strides"]):
        distances = outputs[f"{prefix}distances_{level}"][0] * np.float32(stride)  # (4, h, w)
        row, column = np.indices(distances.shape[1:])
        x, y = (column + np.float32(0.5)) * stride, (row + np.float32(0.5)) * stride
        left, top, right, bottom = distances
        corners.append(np.stack((x - left, y - top, x + right, y + bottom), 2).reshape(-1, 4))
    boxes = ops.cut(np.concatenate(corners)[cells], *inner)
    return boxes, ops.sigmoid(logits.reshape(-1)[order]), labels, cells


def by_cell(outputs: dict[str, Any], name: str, how: dict[str, Any]) -> ops.Floats:
    """Maps (1, C, h, w) of all levels as rows of cells (N, C), finest level first, row by row."""
    maps = [outputs[f"{name}_{level}"][0] for level in range(len(how["strides"]))]
    return np.concatenate([x.reshape(len(x), -1).T for x in maps])
