"""Attention inside unshifted square windows with a relative position bias."""

import torch
from torch import Tensor
from torch.nn import functional as F

from featherbone.ops.attention import attention, attention_plain, in_device_form


def cuts_evenly(height: int, width: int, size: int) -> bool:
    """Whether `size` is known to divide both sides; those of an export may be symbols."""
    known = not isinstance(height, torch.SymInt) and not isinstance(width, torch.SymInt)
    return known and height % size == width % size == 0


def pad_to_windows(x: Tensor, size: int) -> Tensor:
    """Append zeros right and below a map (B, H, W, C) until `size` divides both sides."""
    h, w = x.shape[1:3]
    if cuts_evenly(h, w, size):
        return x
    # Written so that a padded side is a plain multiple of `size`, also where H and W are symbols of an export.
    return F.pad(x, (0, 0, 0, (w + size - 1) // size * size - w, 0, (h + size - 1) // size * size - h))


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """The upper left height x width of maps (B, H, W, C)."""
    if not isinstance(height, torch.SymInt) and not isinstance(width, torch.SymInt):
        return x if (height, width) == x.shape[1:3] else x[:, :height, :width]
    # where sizes are symbols, slices do not export; where they are not, no device pads by less than nothing
    return F.pad(x, (0, 0, 0, width - x.shape[2], 0, height - x.shape[1]))


def window_by_window(x: Tensor, size: int) -> Tensor:
    """The tokens (B, H*W, C) of maps (B, H, W, C), a window after the other; H and W are multiples of `size`."""
    b, h, w, c = x.shape
    if isinstance(h, torch.SymInt) or isinstance(w, torch.SymInt):  # a symbol's multiple is not known to be cut evenly
        x = torch.stack([x[:, row::size] for row in range(size)], dim=2).flatten(0, 1)
        x = torch.stack([x[:, :, column::size] for column in range(size)], dim=3)  # (B*rows, size, columns, size, C)
        return x.transpose(1, 2).reshape(b, -1, c)
    if w == size:
        return x.flatten(1, 2)
    x = x.reshape(b * (h // size), size, w // size, size * c)  # rank 4 suffices, and phones want no more
    return x.transpose(1, 2).reshape(b, h * w, c)


def row_by_row(tokens: Tensor, height: int, width: int, size: int) -> Tensor:
    """Undo `window_by_window`: tokens (B, H*W, C) back to maps (B, H, W, C)."""
    if not isinstance(width, torch.SymInt) and width == size:
        return tokens.unflatten(1, (height, width))
    (b, _, c), rows, columns = tokens.shape, height // size, width // size
    x = tokens.reshape(-1, size * size, c)
    x = x.reshape(b * rows, columns, size, size * c).transpose(1, 2)
    return x.reshape(b * rows, size, columns, size, c).flatten(2, 3).reshape(b, height, width, c)


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


def window_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T d^-1/2 + B) v inside every window, of windows whose tokens lie together.

    `q`, `k` and `v` (B, heads, n*N, d) hold n windows one after the other; `bias` holds B (heads, N, N). Gives
    (B, heads, n*N, d).
    """
    (b, heads, total, d), size = q.shape, bias.shape[1]
    if torch.compiler.is_exporting():  # runtimes have heads before tokens in memory
        if isinstance(b, torch.SymInt) or isinstance(total, torch.SymInt):
            return window_attention_plain(q, k, v, bias)
        n = total // size  # known: ONNX Runtime is faster by a tenth with B spread in advance and one dimension less
        q, k, v = (x.reshape(b, heads * n, size, d) for x in (q, k, v))
        spread = bias[:, None].expand(-1, n, -1, -1).flatten(0, 1)[None]
        return attention(q, k, v, spread).reshape(b, heads, total, d)
    q, k, v = (x.unflatten(2, (-1, size)).transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # torch has them behind
    y = attention(q, k, v, bias[None])  # (B*n, heads, N, d)
    return y.unflatten(0, (b, -1)).transpose(1, 2).flatten(2, 3)


def window_attention_plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The same by two matrix products."""
    q, k, v = (x.unflatten(2, (-1, bias.shape[1])) for x in (q, k, v))  # (B, heads, n, N, d)
    return attention_plain(q, k, v, bias[:, None]).flatten(2, 3)
