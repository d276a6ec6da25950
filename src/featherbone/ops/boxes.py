"""Boxes x1 y1 x2 y2 and operations on them whose result shapes are known in advance."""

from math import log
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms


class Target(NamedTuple):
    """The annotated objects of one image, in pixels of the network's input."""

    boxes: Tensor
    """(n, 4)"""
    labels: Tensor
    """Classes (n,), int64."""
    masks: Tensor | None = None
    """(n, H, W), bool, of the network's input; only for heads that predict masks."""


class Found(NamedTuple):
    """Detections of a head in one image, highest-scoring first, in pixels of the network's input."""

    boxes: Tensor
    """(n, 4)"""
    labels: Tensor
    """Classes (n,), int64."""
    scores: Tensor
    """(n,), from 0 to 1."""
    masks: Tensor | None = None
    """Probabilities (n, M, M) over each box."""


class Picked(NamedTuple):
    """Detections in each image, of fixed shapes, highest-scoring first; the rest has score 0."""

    boxes: Tensor
    """(B, n, 4), in pixels of the network's input."""
    scores: Tensor
    """(B, n), from 0 to 1."""
    labels: Tensor
    """Classes (B, n), int64."""


WIDEST = log(1000 / 16)
"""Largest change of a side, as a logarithm, that deltas may ask for: enlarging as well as reducing it."""
FOUND = {"score_rule": "score > limit", "order": "score_descending", "box": "x1 y1 x2 y2", "unit": "input_pixel"}
"""How objects of a network are given, in the words of `featherbone.json`."""
SELECTION = {
    "candidates_per": "level",
    "nms_per": "class",
    "nms_rule": "iou(box, higher_scoring_kept_box) > nms",
    "iou": "intersection / union, sides are x2 - x1 and y2 - y1",
    **FOUND,
}
"""The selection of `pick_surest`, likewise: candidates, clip, score, NMS, limit."""


def encode_deltas(boxes: Tensor, anchors: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """From anchors (..., 4) to boxes (..., 4): shift of the centre in sides of the anchor, and log of the sides' ratio.

    Times `weights`: dx, dy, dw, dh (arXiv 1311.2524).
    """
    wx, wy, ww, wh = weights
    (ax, ay, aw, ah), (bx, by, bw, bh) = _centres(anchors), _centres(boxes)
    deltas = (wx * (bx - ax) / aw, wy * (by - ay) / ah, ww * torch.log(bw / aw), wh * torch.log(bh / ah))
    return torch.stack(deltas, -1)


def decode_deltas(deltas: Tensor, anchors: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """The inverse of `encode_deltas`; a side grows or shrinks at most `exp(WIDEST)` times."""
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas.unbind(-1), weights, strict=True))
    x, y, w, h = _centres(anchors)
    x, y = x + dx * w, y + dy * h
    w, h = w * torch.exp(dw.clamp(-WIDEST, WIDEST)), h * torch.exp(dh.clamp(-WIDEST, WIDEST))
    return torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), -1)


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def clip_boxes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (B, n, 4) cut at the borders of images of `sizes` (B, 2), height and width."""
    height, width = sizes.to(boxes.device).to(boxes.dtype)[:, None].unbind(-1)  # (B, 1)
    return torch.minimum(boxes.clamp(min=0), torch.stack((width, height, width, height), -1))


def keep_nms(boxes: Tensor, scores: Tensor, threshold: float, groups: Tensor | None = None) -> Tensor:
    """Which boxes (N, 4) no higher-scoring one of their group (N,) overlaps by more than `threshold` in IoU, (N,).

    The number of survivors varies, the shape of the result does not, so the operators after it export.
    """
    if groups is not None and len(boxes):
        boxes = boxes + (groups * (boxes.max() - boxes.min() + 1))[:, None]  # no two groups meet
    return torch.zeros_like(scores, dtype=torch.bool).index_fill(0, nms(boxes, scores, threshold), True)


def pick_surest(
    boxes: Tensor, labels: Tensor, scores: Tensor, threshold: float, nms_threshold: float, limit: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The `limit` highest-scoring of one image's boxes (N, 4), labels (N,) and scores (N,) above `threshold`.

    Boxes that `keep_nms` suppresses within their class are dropped. The result is padded by scores of 0.
    """
    kept = keep_nms(boxes, scores, nms_threshold, labels) & (scores > threshold)
    values, index = scores.where(kept, 0).topk(min(limit, len(scores)))
    return boxes[index], labels[index], values
