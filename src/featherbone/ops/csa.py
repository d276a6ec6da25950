"""Convolutional self-attention of LVT on 3x3 windows, stride 2, padding 1 (arXiv 2112.10809, Sec. 3.1)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from featherbone.ops.attention import in_device_form
from featherbone.ops.windows import crop

TAPS = 9  # of a 3x3 window, row by row


def convolutional_self_attention(x: Tensor, attention: Tensor, weight: Tensor) -> Tensor:
    """Mix the nine taps of every window, each seen through its own matrix, and add the windows up where they overlap.

    v_j = W_j x_j and y_i = sum_j A[i, j] v_j, for the taps i, j of a window; `x` holds x (B, H, W, C), `attention`
    A (B, h, w, heads, 81) with h, w = ceil(H / 2), ceil(W / 2), and `weight` W (9, C, C). Gives (B, H, W, C).
    """
    b, height, width, c = x.shape
    h, w, heads = attention.shape[1:4]
    taps = _taps(x, h, w)
    if in_device_form():  # one product of nine matrices, not nine
        values = torch.stack(taps).reshape(TAPS, b * h * w, c) @ weight.transpose(1, 2)
        values = values.reshape(TAPS, b * h * w, heads, c // heads).permute(1, 2, 0, 3)
    else:
        values = torch.stack(
            [F.linear(tap, matrix) for tap, matrix in zip(taps, weight.unbind(), strict=True)], dim=3
        )  # (B, h, w, 9, C)
        values = values.reshape(b * h * w, TAPS, heads, c // heads).transpose(1, 2)
    mixed = attention.reshape(b * h * w, heads, TAPS, TAPS) @ values  # (B*h*w, heads, 9, d)
    mixed = mixed.transpose(1, 2).reshape(b, h, w, TAPS * c)
    return _overlap_add(mixed, height, width)


def _taps(x: Tensor, h: int, w: int) -> list[Tensor]:
    """Tap (row, column) of every window, nine maps (B, h, w, C); zero outside the map.

    Even and odd rows and columns are told apart by reshaping: phones cut maps, but do not skip in them.
    """
    b, height, width, c = x.shape
    padded = F.pad(x, (0, 0, 1, 2 * w + 1 - width, 1, 2 * h + 1 - height))  # (B, 2h + 2, 2w + 2, C)
    if torch.compiler.is_exporting() and not in_device_form(height, width):  # torch cannot halve a symbol
        return [padded[:, row : row + 2 * h : 2, col : col + 2 * w : 2] for row in range(3) for col in range(3)]
    pairs = padded.reshape(b * (h + 1), 2, w + 1, 2 * c)
    maps = [half.reshape(b, h + 1, w + 1, c) for row in pairs.unbind(1) for half in row.chunk(2, dim=2)]
    return [
        maps[2 * (row % 2) + col % 2][:, row // 2 : row // 2 + h, col // 2 : col // 2 + w]
        for row in range(3)
        for col in range(3)
    ]


def _overlap_add(windows: Tensor, height: int, width: int) -> Tensor:
    """Nine results per window (B, h, w, 9C) added back to their positions, (B, H, W, C).

    Along an axis, position 2p is tap 1 of window p; position 2p + 1 is tap 2 of window p and tap 0 of window p + 1.
    Interleaving even and odd positions needs no scatter, so every export tool-chain takes it.
    """
    b, h, w, c = windows.shape[0], windows.shape[1], windows.shape[2], windows.shape[3] // TAPS
    top, middle, bottom = windows.split(3 * c, dim=3)
    odd = bottom + F.pad(top[:, 1:], (0, 0, 0, 0, 0, 1))
    rows = torch.stack([middle, odd], dim=2).reshape(b, 2 * h, w, 3 * c)
    left, centre, right = rows.split(c, dim=3)
    odd = right + F.pad(left[:, :, 1:], (0, 0, 0, 1))
    both = torch.stack([centre, odd], dim=3).reshape(b, 2 * h, 2 * w, c)
    return crop(both, height, width)  # cuts an odd border off


def convolutional_self_attention_plain(x: Tensor, attention: Tensor, weight: Tensor) -> Tensor:
    """The same by unfold and fold, straight from the formula."""
    b, height, width, c = x.shape
    h, w, heads = attention.shape[1:4]
    windows = F.unfold(x.permute(0, 3, 1, 2), 3, padding=1, stride=2)  # (B, C*9, h*w)
    windows = windows.reshape(b, c, TAPS, h * w)
    values = torch.einsum("jdc,bcjl->bljd", weight, windows).reshape(b, h * w, TAPS, heads, c // heads)
    matrix = attention.reshape(b, h * w, heads, TAPS, TAPS)
    mixed = torch.einsum("blhij,bljhd->bhdil", matrix, values).reshape(b, c * TAPS, h * w)
    return F.fold(mixed, (height, width), 3, padding=1, stride=2).permute(0, 2, 3, 1)
