"""Deformable token merging of LIT: a 2x2 convolution of stride 2 whose taps move (arXiv 2105.14217, Sec. 3.2)."""

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from featherbone.ops.piecewise import piecewise

TAPS = 4  # of a 2x2 window, row by row


def sampling_points(offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The points that the taps of every window read, y and x (B, h, w, 4) in positions of x, in float32 or better.

    Tap (row, column) of window (i, j) reads (2i + row + dy, 2j + column + dx); `offsets` (B, 8, h, w) holds (dy, dx)
    tap by tap.
    """
    offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32)).permute(0, 2, 3, 1)
    _, h, w, _ = offsets.shape
    tap, row, column = (torch.arange(count, device=offsets.device) for count in (TAPS, h, w))
    y = 2 * row[:, None] + tap // 2  # (h, 4)
    x = 2 * column[:, None] + tap % 2  # (w, 4)
    return offsets[..., 0::2] + y[:, None], offsets[..., 1::2] + x


def deformable_merge(x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Merge 2x2 positions sampled at `offsets`, bilinearly, zero outside: x (B, H, W, C) to (B, h, w, D).

    `offsets` (B, 8, h, w) are as in `sampling_points`, h, w = H // 2, W // 2; `weight` (D, C, 2, 2), `bias` (D).
    """
    return linear_of(piecewise(_gather, x, offsets), weight, bias)


def merge_batched(x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same for the whole batch."""
    return linear_of(_gather(x, offsets), weight, bias)


def merge_sampled(x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same by `grid_sample`, which devices have, at a known H and W of 2 or more."""
    return F.conv2d(_sample(x, offsets), weight, bias, stride=2).permute(0, 2, 3, 1)


def linear_of(sampled: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution's product of sampled windows (B, h, w, 4C)."""
    return F.linear(sampled, weight.permute(0, 2, 3, 1).flatten(1), bias)


def _gather(x: Tensor, offsets: Tensor) -> Tensor:
    """The values of x (B, H, W, C) at the sampling points, (B, h, w, 4C).

    Rows are gathered by index: every export tool-chain takes it, and a CPU does it faster than torchvision's operator.
    """
    b, height, width, c = x.shape
    y, x_ = sampling_points(offsets)
    _, h, w, _ = y.shape
    rows = x.reshape(b * height * width, c)
    image = height * width * torch.arange(b, device=x.device).reshape(b, 1, 1, 1)
    top, left = y.floor(), x_.floor()
    sampled: Tensor | None = None
    for yc, share_y in ((top, 1 - (y - top)), (top + 1, y - top)):
        for xc, share_x in ((left, 1 - (x_ - left)), (left + 1, x_ - left)):
            inside = (yc >= 0) & (yc < height) & (xc >= 0) & (xc < width)
            index = image + yc.long().clamp(0, height - 1) * width + xc.long().clamp(0, width - 1)
            share = (share_y * share_x * inside).to(x.dtype)
            corner = rows.index_select(0, index.flatten()) * share.reshape(-1, 1)
            sampled = corner if sampled is None else sampled + corner
    assert sampled is not None
    return sampled.reshape(b, h, w, TAPS * c)


def _sample(x: Tensor, offsets: Tensor) -> Tensor:
    """The values of x (B, H, W, C) at the sampling points as a map (B, C, 2h, 2w)."""
    b, height, width, _ = x.shape
    h, w = offsets.shape[2:]
    rows = [row.reshape(b, h, 4 * w) for row in offsets.permute(0, 2, 3, 1).chunk(2, dim=3)]  # w times two (dy, dx)
    moved = torch.cat(rows, dim=2).reshape(b, 2 * h, 2 * w, 2)
    still = [[(2 * y / (height - 1) - 1, 2 * x_ / (width - 1) - 1) for x_ in range(2 * w)] for y in range(2 * h)]
    scale = (2 / (height - 1), 2 / (width - 1))  # from -1 to 1 along a side
    grid = torch.tensor(still, dtype=x.dtype) + moved * torch.tensor(scale, dtype=x.dtype)
    # of a transposed map, where y comes first as it does in the offsets
    return F.grid_sample(x.permute(0, 3, 2, 1), grid, align_corners=True)


def deformable_merge_plain(x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same by torchvision's deformable convolution."""
    y = torchvision.ops.deform_conv2d(x.permute(0, 3, 1, 2), offsets, weight, bias, stride=2)
    return y.permute(0, 2, 3, 1)
