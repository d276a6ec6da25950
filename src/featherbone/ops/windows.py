"""Attention inside unshifted square windows with a relative position bias."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from featherbone.ops.attention import attention, in_device_form


def pad_to_windows(x: Tensor, size: int) -> Tensor:
    """Append zeros right and below a map (B, H, W, C) until `size` divides both sides."""
    h, w = x.shape[1:3]
    if not isinstance(h, torch.SymInt) and not isinstance(w, torch.SymInt) and h % size == w % size == 0:
        return x
    # Written so that a padded side is a plain multiple of `size`, also where H and W are symbols of an export.
    return F.pad(x, (0, 0, 0, (w + size - 1) // size * size - w, 0, (h + size - 1) // size * size - h))


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """The upper left height x width of maps (B, H, W, C)."""
    if not isinstance(height, torch.SymInt) and not isinstance(width, torch.SymInt):
        return x if (height, width) == x.shape[1:3] else x[:, :height, :width]
    # where sizes are symbols, slices do not export; where they are not, no device pads by less than nothing
    return F.pad(x, (0, 0, 0, width - x.shape[2], 0, height - x.shape[1]))


def split_windows(x: Tensor, size: int) -> Tensor:
    """Cut maps (B, H, W, C) into windows (B*n, size*size, C), row by row; H and W are multiples of `size`."""
    b, h, w, c = x.shape
    if isinstance(h, torch.SymInt) or isinstance(w, torch.SymInt):  # a symbol's multiple is not known to be cut evenly
        x = torch.stack([x[:, row::size] for row in range(size)], dim=2).flatten(0, 1)
        x = torch.stack([x[:, :, column::size] for column in range(size)], dim=3)  # (B*rows, size, columns, size, C)
        return x.transpose(1, 2).reshape(-1, size * size, c)
    x = x.reshape(b * (h // size), size, w // size, size * c)  # rank 4 suffices, and phones want no more
    return x.transpose(1, 2).reshape(b * (h // size) * (w // size), size * size, c)


def join_windows(windows: Tensor, batch: int, height: int, width: int) -> Tensor:
    """Undo `split_windows`: windows (batch*n, size*size, C) back to maps (batch, height, width, C)."""
    size, c = math.isqrt(windows.shape[1]), windows.shape[2]
    rows, columns = height // size, width // size
    x = windows.reshape(batch * rows, columns, size, size * c).transpose(1, 2)
    return x.reshape(batch * rows, size, columns, size, c).flatten(2, 3).reshape(batch, height, width, c)


def position_bias(table: Tensor, height: int, width: int) -> Tensor:
    """The bias B (heads, H*W, H*W) of every query and key of an H x W map.

    Row (y - y' + H - 1)(2W - 1) + (x - x' + W - 1) of `table` ((2H - 1)(2W - 1), heads) serves query (y, x) and
    key (y', x'). Sliding windows over the reversed table read it without an index to keep.
    """
    if in_device_form():  # no device slides windows or reverses; all know how to pick rows
        rows = torch.tensor(bias_rows(height, width), device=table.device)
        return table.index_select(0, rows).reshape(height * width, height * width, -1).permute(2, 0, 1)
    grid = table.reshape(2 * height - 1, 2 * width - 1, -1).flip(0, 1)  # entry (H-1 - dy, W-1 - dx)
    bias = grid.unfold(0, height, 1).unfold(1, width, 1).flip(0, 1)  # (y, x, heads, y', x')
    return bias.permute(2, 0, 1, 3, 4).reshape(-1, height * width, height * width)


def bias_rows(height: int, width: int) -> list[int]:
    """The row of `position_bias`'s table that serves each query and key, query by query."""
    places = [(y, x) for y in range(height) for x in range(width)]
    return [(y - v + height - 1) * (2 * width - 1) + x - u + width - 1 for y, x in places for v, u in places]


def window_attention(qkv: Tensor, bias: Tensor, size: int) -> Tensor:
    """softmax(q k^T d^-1/2 + B) v inside every window.

    `qkv` (B, H, W, 3C) holds q, then k, then v, each head-major; H and W are multiples of `size`; `bias` holds
    B (heads, size*size, size*size). Gives (B, H, W, C).
    """
    b, h, w, c = qkv.shape
    windows, heads = split_windows(qkv, size), bias.shape[0]
    windows = windows.reshape(windows.shape[0], size * size, 3 * heads, c // (3 * heads))
    q, k, v = windows.transpose(1, 2).chunk(3, dim=1)  # (B*n, heads, size*size, d)
    return join_windows(attention(q, k, v, bias[None]).transpose(1, 2).flatten(2), b, h, w)


def window_attention_plain(qkv: Tensor, bias: Tensor, size: int) -> Tensor:
    """The same query by query, straight from the formula."""
    _, height, width, c = qkv.shape
    heads = bias.shape[0]
    q, k, v = qkv.chunk(3, dim=3)
    d = c // (3 * heads)
    out = torch.empty_like(q)
    for y in range(height):
        for x in range(width):
            top, left, query = y // size * size, x // size * size, (y % size) * size + x % size
            for head in range(heads):
                own = slice(head * d, (head + 1) * d)
                keys = k[:, top : top + size, left : left + size, own].flatten(1, 2)  # (B, size*size, d)
                values = v[:, top : top + size, left : left + size, own].flatten(1, 2)
                scores = torch.einsum("bd,bkd->bk", q[:, y, x, own], keys) / d**0.5 + bias[head, query]
                out[:, y, x, own] = torch.einsum("bk,bkd->bd", scores.softmax(1), values)
    return out
