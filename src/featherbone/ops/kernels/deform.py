"""The sampling of deformable token merging in one kernel, its gradients in another; not measured.

A program takes a run of points, so that it writes one piece of memory, and gathers the four corners of each, whose
channels are contiguous. Backward, the gradient of a map is added up atomically in float32 or better: offsets are small,
so few additions meet. `csa` gives the reason for a `custom_op`.
"""

from typing import Any

import torch
import triton
from torch import Tensor
from triton import language as tl

from featherbone.ops.deform import TAPS, linear_of, merge_batched
from featherbone.ops.kernels.csa import contiguous_like, sum_type

TILE = 2048  # bytes of a block of channels of points: 16 for each of 128 threads, one load
CHANNELS = 128  # maximum in a block


def merge_kernel(x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`deformable_merge` on a GPU; without the kernel where torch must be deterministic, as its gradient is not."""
    if torch.are_deterministic_algorithms_enabled():
        return merge_batched(x, offsets, weight, bias)
    return linear_of(sample_taps(x, offsets).flatten(3), weight, bias)


def sample_taps(x: Tensor, offsets: Tensor) -> Tensor:
    """The values of a map x (B, H, W, C) at the points of its 2x2 windows, (B, h, w, 4, C); zero outside.

    Tap (row, column) of window (i, j) reads (y, x) = (2i + row + dy, 2j + column + dx): the sum over the four whole
    positions (Y, X) around of (1 - |y - Y|) (1 - |x - X|) x[b, Y, X]. `offsets` (B, 8, h, w) holds (dy, dx) tap by tap.
    Points and sums are float32, or float64 for float64; the result has the dtype of the map. Differentiable once.
    """
    return deform_sample(x, offsets)


@triton.jit
def _sample(
    maps: tl.tensor,
    offsets: tl.tensor,
    out: tl.tensor,
    points: int,
    h: int,
    w: int,
    height: int,
    width: int,
    C: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK_POINTS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """Some channels of some points; point ((b h + i) w + j) 4 + tap is row of `out`."""
    point = tl.program_id(0) * BLOCK_POINTS + tl.arange(0, BLOCK_POINTS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    valid = point < points
    image, y, x = _look(offsets, point, valid, h, w, SUM)
    total = tl.zeros([BLOCK_POINTS, BLOCK_C], SUM)
    for corner in tl.static_range(4):
        row = tl.floor(y) + corner // 2
        column = tl.floor(x) + corner % 2
        place, inside = _place(image, row, column, valid, height, width)
        share = (1 - tl.abs(y - row)) * (1 - tl.abs(x - column))
        seen = tl.load(maps + place[:, None] * C + c, mask=inside[:, None] & (c < C), other=0).to(SUM)
        total += share[:, None] * seen
    tl.store(out + point.to(tl.int64)[:, None] * C + c, total, mask=valid[:, None] & (c < C))


@triton.jit
def _sample_backward(
    grad: tl.tensor,
    maps: tl.tensor,
    offsets: tl.tensor,
    grad_maps: tl.tensor,
    grad_offsets: tl.tensor,
    points: int,
    h: int,
    w: int,
    height: int,
    width: int,
    C: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK_POINTS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """Of some points and their g = dL/d(out): dL/dx += share g; dL/dy = sum over corners of d(share)/dy (x . g)."""
    point = tl.program_id(0) * BLOCK_POINTS + tl.arange(0, BLOCK_POINTS)
    valid = point < points
    image, y, x = _look(offsets, point, valid, h, w, SUM)
    grad_y = tl.zeros([BLOCK_POINTS], SUM)
    grad_x = tl.zeros([BLOCK_POINTS], SUM)
    for start in range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)[None, :]
        g = tl.load(grad + point.to(tl.int64)[:, None] * C + c, mask=valid[:, None] & (c < C), other=0).to(SUM)
        for corner in tl.static_range(4):
            row = tl.floor(y) + corner // 2
            column = tl.floor(x) + corner % 2
            place, inside = _place(image, row, column, valid, height, width)
            share_y = 1 - tl.abs(y - row)
            share_x = 1 - tl.abs(x - column)
            where = place[:, None] * C + c
            there = inside[:, None] & (c < C)
            product = tl.sum(tl.load(maps + where, mask=there, other=0).to(SUM) * g, axis=1)
            grad_y += (corner // 2 * 2 - 1) * share_x * product  # a point moving down leaves the upper corners
            grad_x += (corner % 2 * 2 - 1) * share_y * product
            tl.atomic_add(grad_maps + where, (share_y * share_x)[:, None] * g, mask=there, sem="relaxed")
    first = _offset(point, h, w)
    tl.store(grad_offsets + first, grad_y, mask=valid)
    tl.store(grad_offsets + first + h * w, grad_x, mask=valid)


@triton.jit
def _offset(point: tl.tensor, h: int, w: int) -> tl.tensor:
    """The place of a point's dy in the offsets (B, 4, (dy, dx), h, w)."""
    window = point // 4
    return ((window // (h * w) * 4 + point % 4).to(tl.int64) * 2 * h + window // w % h) * w + window % w


@triton.jit
def _look(
    offsets: tl.tensor, point: tl.tensor, valid: tl.tensor, h: int, w: int, SUM: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The image of a point, and the y and x that it reads."""
    window = point // 4
    first = _offset(point, h, w)
    dy = tl.load(offsets + first, mask=valid, other=0).to(SUM)
    dx = tl.load(offsets + first + h * w, mask=valid, other=0).to(SUM)
    tap = point % 4
    return window // (h * w), (window // w % h * 2 + tap // 2) + dy, (window % w * 2 + tap % 2) + dx


@triton.jit
def _place(
    image: tl.tensor, row: tl.tensor, column: tl.tensor, valid: tl.tensor, height: int, width: int
) -> tuple[tl.tensor, tl.tensor]:
    """The number of a position among those of all images, and whether it is on its map; not a number is not."""
    inside = valid & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    row = tl.where(inside, row, 0).to(tl.int32)  # far outside it may not fit an integer
    column = tl.where(inside, column, 0).to(tl.int32)
    return (image * height + row).to(tl.int64) * width + column, inside


@torch.library.custom_op("featherbone::deform_sample", mutates_args=())
def deform_sample(x: Tensor, offsets: Tensor) -> Tensor:
    """As `sample_taps`."""
    b, height, width, c, h, w = _sizes(x, offsets)
    out = x.new_empty(b, h, w, TAPS, c)
    if not out.numel():
        return out
    block_c, block_points = _blocks(x)
    points = TAPS * b * h * w
    with torch.cuda.device_of(x):
        _sample[(triton.cdiv(points, block_points), triton.cdiv(c, block_c))](
            x.contiguous(),
            offsets.contiguous(),
            out,
            *(points, h, w, height, width),
            C=c,
            SUM=sum_type(x, offsets),
            BLOCK_POINTS=block_points,
            BLOCK_C=block_c,
            num_warps=4,
            enable_fp_fusion=True,
        )
    return out


@torch.library.custom_op("featherbone::deform_sample_backward", mutates_args=())
def deform_sample_backward(grad: Tensor, x: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `sample_taps` for its map and its offsets, from `grad` (B, h, w, 4, C) for its result."""
    b, height, width, c, h, w = _sizes(x, offsets)
    total = torch.zeros(x.shape, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    grad_offsets = torch.zeros_like(offsets, memory_format=torch.contiguous_format)
    if grad.numel():
        block_c, block_points = _blocks(x)
        points = TAPS * b * h * w
        with torch.cuda.device_of(x):
            _sample_backward[(triton.cdiv(points, block_points),)](
                grad.contiguous(),
                x.contiguous(),
                offsets.contiguous(),
                total,
                grad_offsets,
                *(points, h, w, height, width),
                C=c,
                SUM=sum_type(x, offsets),
                BLOCK_POINTS=block_points,
                BLOCK_C=block_c,
                num_warps=4,
                enable_fp_fusion=True,
            )
    return total.to(x.dtype), grad_offsets


def _sizes(x: Tensor, offsets: Tensor) -> tuple[int, int, int, int, int, int]:
    """B, H, W, C, h, w, if they agree: a kernel would read past the end of what is too small."""
    b, height, width, c = x.shape
    h, w = height // 2, width // 2
    if offsets.shape != (b, 2 * TAPS, h, w):
        raise ValueError(
            f"offsets {tuple(offsets.shape)} are not those of a map {tuple(x.shape)}; "
            f"for (B, H, W, C) they are (B, 8, H // 2, W // 2), here {(b, 2 * TAPS, h, w)}"
        )
    return b, height, width, c, h, w


def _blocks(x: Tensor) -> tuple[int, int]:
    """Channels and points of a block."""
    channels = min(triton.next_power_of_2(x.shape[3]), CHANNELS)
    return channels, max(TILE // (channels * x.element_size()), 1)


@deform_sample.register_fake
def _(x: Tensor, offsets: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], offsets.shape[2], offsets.shape[3], TAPS, x.shape[3])


@deform_sample_backward.register_fake
def _(grad: Tensor, x: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    return contiguous_like(x), contiguous_like(offsets)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    return deform_sample_backward(grad, *ctx.saved_tensors)


deform_sample.register_autograd(_gradients, setup_context=_keep)
