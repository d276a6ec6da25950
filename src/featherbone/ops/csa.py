"""Convolutional self-attention of LVT on 3x3 windows, stride 2, padding 1 (arXiv 2112.10809, Sec. 3.1)."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from featherbone.ops.piecewise import piecewise
from featherbone.ops.windows import fold, skip

TAPS = 9  # of a 3x3 window, row by row
SHARED = ((0, 2, 6, 8), (1, 7), (3, 5), (4,))
"""Taps that read odd rows and columns, odd rows and even columns, even rows and odd columns, and even ones."""


def pool_windows(x: Tensor) -> Tensor:
    """The mean of the positions that each window owns, (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), C)."""
    return _pool(x) if x.shape[1] % 2 == x.shape[2] % 2 == 0 else pool_open(x)


def pool_open(x: Tensor) -> Tensor:
    """The same at any H and W, known or not."""
    # the mean over an odd border's valid pixels is that over its repetition; ceil_mode would not export
    return _pool(F.pad(x.permute(0, 3, 1, 2), (0, 1, 0, 1), mode="replicate").permute(0, 2, 3, 1))


def _pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def tap_attention(pooled: Tensor, weight: Tensor, bias: Tensor, num_heads: int, scale: float) -> Tensor:
    """A: for each output tap i of a window, a distribution over its input taps j, (B, h, w, heads, 81).

    softmax over j of the scores that a Linear of `weight` (81 heads, C) and `bias` gives for `pooled` (B, h, w, C),
    times `scale`. Its rows are taken j by j, so that many softmaxes over nine are computed side by side.
    """
    b, h, w, c = pooled.shape
    weight = weight.reshape(num_heads * TAPS, TAPS, c).transpose(0, 1).reshape(-1, c)
    bias = bias.reshape(num_heads * TAPS, TAPS).t().flatten()
    scores = F.linear(pooled, weight * scale, bias * scale).reshape(b, h, w, TAPS, num_heads * TAPS)
    return scores.softmax(3).transpose(3, 4).reshape(b, h, w, num_heads, TAPS * TAPS)


def tap_attention_plain(pooled: Tensor, weight: Tensor, bias: Tensor, num_heads: int, scale: float) -> Tensor:
    """The same straight from the formula."""
    b, h, w, _ = pooled.shape
    scores = F.linear(pooled, weight, bias).reshape(b, h, w, num_heads, TAPS, TAPS) * scale
    return scores.softmax(-1).flatten(4)


def tap_attention_by_map(pooled: Tensor, weight: Tensor, bias: Tensor, num_heads: int, scale: float) -> Tensor:
    """The same for runtimes, whose softmax over nine neighbours is slow: over nine maps of all windows."""
    b, h, w, _ = pooled.shape
    scores = (weight * scale) @ pooled.flatten(1, 2).transpose(1, 2) + (bias * scale)[:, None]  # (B, 81 heads, h*w)
    shares = scores.reshape(b, num_heads * TAPS, TAPS, h * w).softmax(2).flatten(1, 2)
    return shares.transpose(1, 2).reshape(b, h, w, num_heads, TAPS * TAPS)


def tap_attention_by_window(pooled: Tensor, weight: Tensor, bias: Tensor, num_heads: int, scale: float) -> Tensor:
    """The same with one matrix per window and head, (B, h*w*heads, 9, 9), for devices: four dimensions."""
    return (F.linear(pooled, weight, bias) * scale).reshape(len(pooled), -1, TAPS, TAPS).softmax(-1)


def convolutional_self_attention(x: Tensor, attention: Tensor, weight: Tensor) -> Tensor:
    """Mix the nine taps of every window, each seen through its matrix, and add the windows up where they overlap.

    v_j = W_j x_j and y_i = sum_j A[i, j] v_j, for the taps i, j of a window; `x` holds x (B, H, W, C), `attention`
    A (B, h, w, heads, 81) with h, w = ceil(H / 2), ceil(W / 2), and `weight` W (9, C, C). Returns (B, H, W, C).
    """
    return piecewise(partial(csa_batched, weight=weight), x, attention)


def csa_batched(x: Tensor, attention: Tensor, weight: Tensor) -> Tensor:
    """The same for the whole batch."""
    return _mix(tap_values(x, weight, attention.shape[1:3], skip), attention)[:, : x.shape[1], : x.shape[2]]


def csa_gathered(x: Tensor, attention: Tensor, weight: Tensor) -> Tensor:
    """The same for runtimes, where copies take most of the time: one gather by index, one batched product."""
    b, height, width, c = x.shape
    h, w, heads = attention.shape[1:4]
    rows = F.pad(x.flatten(1, 2), (0, 0, 0, 1))  # the last one is zero, for taps outside of the map
    taps = rows.index_select(1, window_positions(height, width).to(x.device)).reshape(b, TAPS, h * w, c)
    values = (taps @ weight.transpose(1, 2)).reshape(b, TAPS, h * w, heads, c // heads).permute(0, 2, 3, 1, 4)
    mixed = attention.reshape(-1, TAPS, TAPS) @ values.reshape(-1, TAPS, c // heads)
    return _overlap_add(mixed.reshape(b, h, w * heads, TAPS * c // heads), heads)[:, :height, :width]


def window_positions(height: int, width: int) -> Tensor:
    """The position of each tap of every window in a flattened map, (9*h*w,), tap by tap; outside it is H*W."""
    taps = torch.arange(3)[:, None] - 1
    rows = (taps + torch.arange(0, height, 2)).reshape(3, 1, -1, 1)
    columns = (taps + torch.arange(0, width, 2)).reshape(1, 3, 1, -1)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return torch.where(inside, rows * width + columns, height * width).flatten()


def csa_sliced(x: Tensor, attention: Tensor, weight: Tensor) -> Tensor:
    """The same for devices, with A of `tap_attention_by_window`, in four dimensions.

    Even and odd positions are separated by reshaping: phones cut maps, but do not skip in them.
    """
    b, height, width, c = x.shape
    h, w = -(-height // 2), -(-width // 2)
    heads = attention.shape[1] // (h * w)
    values = [v.reshape(b, h * w * heads, 1, c // heads) for v in tap_values(x, weight, (h, w), fold)]
    mixed = attention @ torch.cat(values, dim=2)  # (B, h*w*heads, 9, d)
    return _overlap_add(mixed.reshape(b, h, w * heads, TAPS * c // heads), heads)[:, :height, :width]


def csa_open(x: Tensor, attention: Tensor, weight: Tensor) -> Tensor:
    """The same for graphs in which H and W stay open: torch cannot prove there that heads divide a batched product."""
    _, height, width, c = x.shape
    b, h, w, heads, _ = attention.shape
    values = torch.stack(tap_values(x, weight, (h, w), skip), dim=3).unflatten(4, (heads, -1)).unbind(4)
    pairs = zip(attention.unflatten(4, (TAPS, TAPS)).unbind(3), values, strict=True)
    mixed = torch.stack([matrix @ v for matrix, v in pairs], dim=4)  # (B, h, w, 9, heads, d)
    both = _overlap_add(mixed.reshape(b, h, w, TAPS * c))
    return F.pad(both, (0, 0, 0, width - both.shape[2], 0, height - both.shape[1]))  # slices would not export


def _mix(values: list[Tensor], attention: Tensor) -> Tensor:
    """The result y of nine maps v_j (B, h, w, C), with an odd border's surplus row and column: (B, 2h, 2w, C)."""
    heads = attention.shape[3]
    by_head = torch.cat([v.unflatten(3, (heads, -1)) for v in values], dim=4)  # (B, h, w, heads, 9d)
    mixed = attention.reshape(-1, TAPS, TAPS) @ by_head.reshape(-1, TAPS, by_head.shape[4] // TAPS)
    return _overlap_add(mixed.reshape(by_head.flatten(2, 3).shape), heads)


def tap_values(x: Tensor, weight: Tensor, size: Sequence[int], halve: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
    """v_j of every window, of `size` h, w of them: nine maps (B, h, w, C); zero outside the map.

    A tap sees every second row and column, and taps that are two apart see the same: a position meets only the one,
    two or four matrices of its taps, in one product. `halve` separates even and odd positions.
    """
    (_, height, width, _), (h, w) = x.shape, size
    padded = F.pad(x, (0, 0, 1, 2 * w + 1 - width, 1, 2 * h + 1 - height))  # (B, 2h + 2, 2w + 2, C)
    found = {}
    for half, taps in zip(halve(padded), SHARED, strict=True):
        down, right = taps[-1] // 6, taps[-1] % 3 // 2  # 1 where windows meet two of these rows, columns
        seen = F.linear(half[:, : h + down, : w + right], torch.cat([weight[tap] for tap in taps]))
        parts = seen.chunk(len(taps), dim=3) if len(taps) > 1 else [seen]  # LiteRT takes no split into one part
        for tap, v in zip(taps, parts, strict=True):
            found[tap] = v[:, tap // 6 : tap // 6 + h, tap % 3 // 2 : tap % 3 // 2 + w]
    return [found[tap] for tap in range(TAPS)]


def _overlap_add(windows: Tensor, heads: int = 1) -> Tensor:
    """Nine results per window and head (B, h, w*heads, 9d) added back to their positions, (B, 2h, 2w, heads*d).

    Along an axis, position 2p is tap 1 of window p; position 2p + 1 is tap 2 of window p and tap 0 of window p + 1.
    Interleaving even and odd positions needs no scatter, so every export tool-chain takes it.
    """
    b, h, columns, d = windows.shape
    d, w = d // TAPS, columns // heads
    top, middle, bottom = windows.split(3 * d, dim=3)
    odd = bottom + F.pad(top[:, 1:], (0, 0, 0, 0, 0, 1))
    rows = torch.cat([middle, odd], dim=2).reshape(b, 2 * h, columns, 3 * d)
    left, centre, right = rows.split(d, dim=3)
    odd = right + F.pad(left[:, :, heads:], (0, 0, 0, heads))
    both = [x.reshape(b, 2 * h * w, heads, d) for x in (centre, odd)]
    return torch.cat(both, dim=2).reshape(b, 2 * h, 2 * w, heads * d)


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
