"""Anchors on the cells of a map, and the objects that they are matched to."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

NEGATIVE, IGNORED = -1, -2
"""Values of `match` for background anchors and for anchors without a loss."""


class AnchorRaw(NamedTuple):
    """Raw maps, one per level, finest first; channels are those of the first anchor, then the next."""

    logits: tuple[Tensor, ...]
    """Logits of each anchor's K classes (B, A * K, h, w); K is 1 for objectness."""
    deltas: tuple[Tensor, ...]
    """Deltas from anchors to boxes (B, A * 4, h, w)."""


def base_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Anchors (A, 4) about the origin, of area size^2 and height / width = ratio; ratios are the outer loop."""
    rows = [(size / ratio**0.5, size * ratio**0.5) for ratio in ratios for size in sizes]
    return torch.tensor([(-w / 2, -h / 2, w / 2, h / 2) for w, h in rows])


def grid_anchors(base: Tensor, height: int, width: int, stride: float) -> Tensor:
    """`base` (A, 4) moved to the corner of every cell of a map, row by row: (height * width * A, 4) in pixels."""
    y, x = torch.meshgrid(
        torch.arange(height, device=base.device) * stride,
        torch.arange(width, device=base.device) * stride,
        indexing="ij",
    )
    corners = torch.stack((x, y, x, y), -1).reshape(-1, 1, 4)
    return (corners + base).reshape(-1, 4)


def level_anchors(maps: Sequence[Tensor], bases: Sequence[Tensor], strides: Sequence[float]) -> list[Tensor]:
    """The anchors (h * w * A, 4) of maps (B, C, h, w) with each level's `bases` (A, 4), in pixels."""
    levels = zip(maps, bases, strides, strict=True)
    return [grid_anchors(base.to(x.device), x.shape[2], x.shape[3], stride) for x, base, stride in levels]


def by_anchor(maps: Tensor, values: int) -> Tensor:
    """Maps (B, A * V, h, w) as the V `values` of each anchor, in the order of `grid_anchors`: (B, h * w * A, V)."""
    b, _, h, w = maps.shape
    return maps.reshape(b, -1, values, h, w).permute(0, 3, 4, 1, 2).reshape(b, -1, values)


def match(objects: Tensor, anchors: Tensor, positive: float, negative: float, best: bool = True) -> Tensor:
    """For each anchor (N, 4) the index of its object (n, 4), `NEGATIVE`, or `IGNORED`: int64 (N,).

    An anchor is matched to the object with the highest IoU, if that is at least `positive`; below `negative` it is
    negative. With `best`, the anchors with the highest IoU of an object are matched whatever their IoU is.
    """
    if not len(objects):
        return anchors.new_full((len(anchors),), NEGATIVE, dtype=torch.int64)
    iou = box_iou(objects, anchors)
    overlap, index = iou.max(0)
    matched = torch.where(overlap >= positive, index, torch.where(overlap < negative, NEGATIVE, IGNORED))
    if best:
        top = ((iou == iou.max(1, keepdim=True).values) & (iou > 0)).any(0)
        matched = torch.where(top, index, matched)
    return matched
