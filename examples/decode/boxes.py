"""What the decoders of boxes share."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]


def sigmoid(x: Floats) -> Floats:
    """From logits to scores."""
    return 1 / (1 + np.exp(-x))


def cut(boxes: Floats, height: float, width: float) -> Floats:
    """Boxes (n, 4) clipped at the borders of an image."""
    return np.clip(boxes, 0, [width, height, width, height])


def suppress(boxes: Floats, scores: Floats, labels: Integers, threshold: float) -> Integers:
    """NMS: indices of boxes (n, 4), highest score first, that no kept box of their class overlaps by more in IoU."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    rest, kept = np.argsort(-scores, kind="stable"), []
    while len(rest):
        i, rest = rest[0], rest[1:]
        kept.append(i)
        sides = np.minimum(boxes[i, 2:], boxes[rest, 2:]) - np.maximum(boxes[i, :2], boxes[rest, :2])
        shared = np.maximum(sides, 0).prod(1)
        with np.errstate(invalid="ignore"):  # two empty boxes have no IoU
            iou = shared / (area[i] + area[rest] - shared)
        rest = rest[~((iou > threshold) & (labels[rest] == labels[i]))]
    return np.array(kept, np.int64)


def select(boxes: Floats, scores: Floats, labels: Integers, how: dict[str, Any], score: float) -> Integers:
    """Indices of the objects found among the candidates of all levels, highest score first."""
    above = np.flatnonzero(scores > np.float32(score))
    return above[suppress(boxes[above], scores[above], labels[above], how["nms"])[: how["limit"]]]


def to_image(boxes: Floats, size: tuple[int, int], inner: tuple[int, int]) -> tuple[Floats, Integers]:
    """Boxes (n, 4) of the input in pixels of an image of `size`, and the indices of those with an area."""
    scale = np.float32([size[1] / inner[1], size[0] / inner[0]] * 2)
    boxes = cut(boxes.astype(np.float32) * scale, *size)
    return boxes, np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))


def describe(boxes: Floats, scores: Floats, labels: Integers, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Objects as plain values."""
    rows = zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True)
    return [{"label": i, "name": about["classes"][i], "score": score, "box": box} for box, score, i in rows]
