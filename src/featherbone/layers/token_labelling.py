"""MixToken and its loss, the token labelling of LV-ViT (arXiv 2104.10858) that LVT trains with."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Box(NamedTuple):
    """A box of grid cells, upper ends excluded."""

    top: int
    left: int
    bottom: int
    right: int


class TokenLabels(NamedTuple):
    """The output of a token-labelling backbone in training."""

    logits: Tensor
    """Class logits (B, K)."""
    aux_logits: Tensor
    """Logits of every position (B, h, w, K), with the mixed box swapped back."""
    box: Box
    """Cells of the h x w grid that came from the batch in reverse order."""


def draw_box(height: int, width: int) -> Box:
    """A box of sides sqrt(1 - lam) of the grid, lam ~ Beta(1, 1), at a uniform centre, clipped to the grid."""
    lam, y, x = torch.rand(3).tolist()  # Beta(1, 1) is uniform
    half_h, half_w = int(height * (1 - lam) ** 0.5) // 2, int(width * (1 - lam) ** 0.5) // 2
    y, x = int(y * height), int(x * width)
    return Box(max(y - half_h, 0), max(x - half_w, 0), min(y + half_h, height), min(x + half_w, width))


def swap_box(maps: Tensor, box: Box, cell: int = 1) -> Tensor:
    """Maps (B, H, W, C) with the box, in cells of `cell` positions, taken from the batch in reverse order.

    Swapping twice restores the maps.
    """
    mask = maps.new_zeros(maps.shape[1:3], dtype=torch.bool)
    mask[box.top * cell : box.bottom * cell, box.left * cell : box.right * cell] = True
    return torch.where(mask[:, :, None], maps.flip(0), maps)


def token_label_losses(out: TokenLabels, targets: Tensor, smoothing: float = 0.0) -> dict[str, Tensor]:
    """`{"class": CE(class, lam y + (1 - lam) y reversed), "aux": 0.5 CE(position, y)}` for soft labels y (B, K).

    lam is the share of cells outside the box. Every position takes its image's label.
    """
    height, width = out.aux_logits.shape[1:3]
    lam = 1 - (out.box.bottom - out.box.top) * (out.box.right - out.box.left) / (height * width)
    mixed = lam * targets + (1 - lam) * targets.flip(0)
    per_position = targets[:, None].expand(-1, height * width, -1).flatten(0, 1)
    aux_logits = out.aux_logits.float().flatten(0, 2)
    return {
        "class": F.cross_entropy(out.logits.float(), mixed, label_smoothing=smoothing),
        "aux": 0.5 * F.cross_entropy(aux_logits, per_position, label_smoothing=smoothing),
    }
