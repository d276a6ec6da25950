"""Task-aligned assignment (TOOD, arXiv 2108.07755) and the losses of GFL (arXiv 2006.04388) on assigned cells."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from featherbone.heads.anchors import NEGATIVE
from featherbone.ops.boxes import Target

EXPONENT = 6
"""Of the IoU in the alignment score * IoU^EXPONENT."""
FOCUS = 2
"""Exponent of the quality focal loss."""


class Assignment(NamedTuple):
    """The objects that the cells of one image are trained on."""

    cells: Tensor
    """Indices of the positive cells (p,)."""
    objects: Tensor
    """The index of the object of each (p,)."""
    weight: Tensor
    """Alignment of each, relative to the best cell of its object, from 0 to 1 (p,)."""
    quality: Tensor
    """The score that each is trained on, from 0 to 1 (p,)."""


class Cells(NamedTuple):
    """The cells of all levels, finest level first, row by row."""

    points: Tensor
    """Centres x y (N, 2), in pixels of the input."""
    strides: Tensor
    """(N,)"""

    @staticmethod
    def of(maps: Sequence[Tensor], strides: Sequence[float]) -> "Cells":
        """The cells of maps (B, C, h, w) of these strides."""
        points, steps = [], []
        for x, stride in zip(maps, strides, strict=True):
            rows, columns = ((torch.arange(side, device=x.device) + 0.5) * stride for side in x.shape[2:])
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            points.append(torch.stack((x, y), -1).flatten(0, 1))
            steps.append(torch.full_like(points[-1][:, 0], stride))
        return Cells(torch.cat(points), torch.cat(steps))

    def boxes(self, distances: Tensor, chosen: Tensor) -> Tensor:
        """Boxes (..., 4) of the `chosen` cells (...) from their distances to the four sides (..., 4), in strides."""
        points, pixels = self.points[chosen], distances * self.strides[chosen][..., None]
        return torch.cat((points - pixels[..., :2], points + pixels[..., 2:]), -1)

    def distances(self, boxes: Tensor, chosen: Tensor) -> Tensor:
        """The inverse of `boxes`."""
        points = self.points[chosen]
        return torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), -1) / self.strides[chosen][..., None]


@torch.no_grad()
def assign(scores: Tensor, boxes: Tensor, points: Tensor, target: Target, top: int) -> Assignment:
    """The `top` best-aligned cells of each object among those whose centre is inside its box.

    `scores` (N, K), `boxes` (N, 4) and centres `points` (N, 2) are those of the cells. If no centre is inside a box,
    the nearest cell is used. A cell chosen by several objects is assigned to the best-aligned one; an object that
    loses all its cells takes the best of those that are left. The quality of a cell is its weight times the highest
    IoU of its object's cells.
    """
    if not len(target.boxes):
        empty = torch.zeros(0, dtype=torch.int64, device=scores.device)
        return Assignment(empty, empty, scores.new_zeros(0), scores.new_zeros(0))
    iou = box_iou(target.boxes, boxes)  # (n, N)
    alignment = scores.T[target.labels] * iou**EXPONENT
    margin = torch.cat((points - target.boxes[:, None, :2], target.boxes[:, None, 2:] - points), -1).amin(-1)
    inside = (margin > 0).scatter(1, margin.argmax(1, keepdim=True), True)
    values, chosen = alignment.where(inside, -1).topk(min(top, len(points)))
    claims = torch.full_like(alignment, -1).scatter(1, chosen, values)  # -1 where a cell is not chosen
    best, index = claims.max(0)
    owner = index.where(best >= 0, NEGATIVE)  # (N,)
    numbers = torch.arange(len(target.boxes), device=scores.device)
    for i in numbers[(owner != numbers[:, None]).all(1)].split(1):  # (1,), since an index (,) is read from the device
        value, cell = alignment[i].where(inside[i] & (owner < 0), -1).max(1)
        owner[cell] = i.where(value >= 0, owner[cell])
    cells = (owner >= 0).nonzero()[:, 0]
    objects = owner[cells]
    claimed = torch.zeros_like(inside)
    claimed[objects, cells] = True
    highest, reach = (x.where(claimed, 0).amax(1)[objects] for x in (alignment, iou))
    weight = alignment[objects, cells] / highest.clamp(min=1e-30)
    return Assignment(cells, objects, weight, weight * reach)


def quality_focal_loss(logits: Tensor, labels: Tensor, assigned: Assignment) -> Tensor:
    """|quality - score|^2 * cross-entropy, from logits (N, K) and object labels (n,); Eq. 1 of GFL.

    The score of an assigned cell's class is trained on its quality, all others on 0. The sum over cells and classes is
    divided by that of the qualities, at least 1.
    """
    wanted = torch.zeros_like(logits)
    wanted[assigned.cells, labels[assigned.objects]] = assigned.quality
    weight = (wanted - logits.sigmoid()).abs() ** FOCUS
    loss = weight * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return loss.sum() / assigned.quality.sum().clamp(min=1)


def weighted_mean(losses: Tensor, weight: Tensor) -> Tensor:
    """Losses of cells (p,) by their weights, which are divided by their sum, at least 1."""
    return (losses * weight).sum() / weight.sum().clamp(min=1)


def distribution_focal_loss(bins: Tensor, values: Tensor) -> Tensor:
    """Cross-entropy (...) of the two bins next to each value (...), from logits of the bins 0 to n - 1 (..., n).

    Eq. 6 of GFL; values outside of the bins are clipped.
    """
    values = values.clamp(0, bins.shape[-1] - 1.001)
    lower = values.long()
    shares = torch.stack((lower + 1 - values, values - lower), -1)
    return -(bins.log_softmax(-1).gather(-1, torch.stack((lower, lower + 1), -1)) * shares).sum(-1)
