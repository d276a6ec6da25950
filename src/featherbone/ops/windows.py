"""Attention inside unshifted square windows with a relative position bias."""

import torch
from torch import Tensor
from torch.nn import functional as F

from featherbone.ops.attention import attention, attention_plain


class Windows:
    """Cutting maps (B, H, W, C) into square windows, and joining them again."""

    @staticmethod
    def pad(x: Tensor, size: int) -> Tensor:
        """Append zeros right and below a map until `size` divides both sides; the map itself where it does."""
        return OpenWindows.pad(x, size) if x.shape[1] % size or x.shape[2] % size else x

    @staticmethod
    def crop(x: Tensor, height: int, width: int) -> Tensor:
        """The upper left height x width of a map."""
        return x if x.shape[1:3] == (height, width) else x[:, :height, :width]

    @staticmethod
    def cut(x: Tensor, size: int) -> Tensor:
        """The tokens (B, H*W, C) of a map, one window after the other; H and W are multiples of `size`."""
        b, h, w, c = x.shape
        if w == size:
            return x.flatten(1, 2)
        x = x.reshape(b * (h // size), size, w // size, size * c)  # rank 4 suffices, and phones want no more
        return x.transpose(1, 2).reshape(b, h * w, c)

    @staticmethod
    def join(tokens: Tensor, height: int, width: int, size: int) -> Tensor:
        """Undo `cut`: tokens (B, H*W, C) back to a map (B, H, W, C)."""
        (b, _, c), rows, columns = tokens.shape, height // size, width // size
        x = tokens.reshape(b * rows, columns, size, size * c) if width != size else tokens
        return (x.transpose(1, 2) if width != size else x).reshape(b, height, width, c)


class OpenWindows:
    """The same for graphs in which H and W stay open, without asking for their values."""

    @staticmethod
    def pad(x: Tensor, size: int) -> Tensor:
        h, w = x.shape[1:3]  # written so that torch sees a padded side as a multiple of `size`
        return F.pad(x, (0, 0, 0, (w + size - 1) // size * size - w, 0, (h + size - 1) // size * size - h))

    @staticmethod
    def crop(x: Tensor, height: int, width: int) -> Tensor:
        return F.pad(x, (0, 0, 0, width - x.shape[2], 0, height - x.shape[1]))  # slices would not export

    @staticmethod
    def cut(x: Tensor, size: int) -> Tensor:
        b, _, _, c = x.shape
        x = torch.stack([x[:, row::size] for row in range(size)], dim=2).flatten(0, 1)
        x = torch.stack([x[:, :, column::size] for column in range(size)], dim=3)  # (B*rows, size, columns, size, C)
        return x.transpose(1, 2).reshape(b, -1, c)

    @staticmethod
    def join(tokens: Tensor, height: int, width: int, size: int) -> Tensor:
        (b, _, c), rows, columns = tokens.shape, height // size, width // size
        x = tokens.reshape(-1, size * size, c)
        x = x.reshape(b * rows, columns, size, size * c).transpose(1, 2)
        return x.reshape(b * rows, size, columns, size, c).flatten(2, 3).reshape(b, height, width, c)


def skip(maps: Tensor) -> list[Tensor]:
    """Every second row and column of maps (B, H, W, C), from each of four starts."""
    return [maps[:, row::2, column::2] for row in range(2) for column in range(2)]


def fold(maps: Tensor) -> list[Tensor]:
    """The same by reshaping, in four dimensions: devices cut maps, but do not skip in them."""
    b, height, width, c = maps.shape
    rows = maps.reshape(b, height // 2, 2 * width, c).chunk(2, dim=2)
    return [half for row in rows for half in row.reshape(b, height // 2, width // 2, 2 * c).chunk(2, dim=3)]


def position_bias(table: Tensor, height: int, width: int) -> Tensor:
    """The bias B (heads, H*W, H*W) of every query and key of an H x W map.

    Row (y - y' + H - 1)(2W - 1) + (x - x' + W - 1) of `table` ((2H - 1)(2W - 1), heads) belongs to query (y, x) and
    key (y', x'). Sliding windows over the reversed table read it without an index to keep.
    """
    grid = table.reshape(2 * height - 1, 2 * width - 1, -1).flip(0, 1)  # entry (H-1 - dy, W-1 - dx)
    bias = grid.unfold(0, height, 1).unfold(1, width, 1).flip(0, 1)  # (y, x, heads, y', x')
    return bias.permute(2, 0, 1, 3, 4).reshape(-1, height * width, height * width)


def window_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T d^-1/2 + B) v inside every window.

    `q`, `k` and `v` (B, heads, n*N, d) hold n windows one after the other; `bias` holds B (heads, N, N). Returns
    (B, heads, n*N, d).
    """
    b, size = q.shape[0], bias.shape[1]
    q, k, v = (x.unflatten(2, (-1, size)).transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    y = attention(q, k, v, bias[None])  # (B*n, heads, N, d)
    return y.unflatten(0, (b, -1)).transpose(1, 2).flatten(2, 3)


def window_attention_plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The same by two matrix products."""
    q, k, v = (x.unflatten(2, (-1, bias.shape[1])) for x in (q, k, v))  # (B, heads, n, N, d)
    return attention_plain(q, k, v, bias[:, None]).flatten(2, 3)


def window_attention_by_head(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The same in four dimensions, for phones: windows beside heads, B repeated."""
    (b, heads, total, d), size = q.shape, bias.shape[1]
    n = total // size
    q, k, v = (x.reshape(b, heads * n, size, d) for x in (q, k, v))
    repeated = bias[:, None].expand(-1, n, -1, -1).flatten(0, 1)[None]
    return attention_plain(q, k, v, repeated).reshape(b, heads, total, d)
