"""The mix and overlap-add of convolutional self-attention in one kernel, its gradients in another; not measured.

The values are made outside, by dense products. Forward, a program takes a run of windows and gathers, for the four
positions that each of them owns, the results of up to four windows: nothing is atomic, every result is written and
every share of the attention read once. With nine multiplications per value memory is the limit, so the products are
plain. Backward, the gradients of a window are two products of its taps, nine padded to the 16 that `tl.dot` takes.

A `custom_op`, not a `triton_op`: torch.compile and torch.export would call the latter's launching code with fake
tensors, which the interpreter that tests the kernels refuses, so the tests would not run the same code.
"""

from typing import Any

import torch
import triton
from torch import Tensor
from triton import language as tl

from featherbone.ops.csa import tap_values
from featherbone.ops.windows import skip

TILE = 2048  # bytes a forward program loads of a tap of its windows: 16 for each of 128 threads, one load
CHANNELS = 64  # maximum of a head in a block


def csa_kernel(x: Tensor, attention: Tensor, weight: Tensor) -> Tensor:
    """`convolutional_self_attention` of maps x (B, H, W, C) on a GPU."""
    values = tap_values(x, weight, attention.shape[1:3], skip)
    return mix_windows(torch.stack(values, dim=3), attention, *x.shape[1:3])


def mix_windows(values: Tensor, attention: Tensor, height: int, width: int) -> Tensor:
    """Mix the values of every window's nine taps and add the windows up where they overlap: y (B, H, W, C).

    y[b, Y, X] = sum over windows (i, j) and their tap t at (Y, X) = (2i - 1 + t // 3, 2j - 1 + t % 3) of
    sum_s A[b, i, j, head, t, s] v[b, i, j, s]. `values` holds v (B, h, w, 9, C), zero for taps outside of the map,
    `attention` A (B, h, w, heads, 81); h, w = ceil(H / 2), ceil(W / 2). Sums are float32, or float64 for float64; y has
    the dtype of the values. Differentiable once.
    """
    return csa_mix(values, attention, height, width)


@triton.jit
def _mix(
    values: tl.tensor,
    attention: tl.tensor,
    out: tl.tensor,
    windows: int,
    h: int,
    w: int,
    height: int,
    width: int,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK_WINDOWS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
) -> None:
    """The positions (2i, 2j), (2i, 2j + 1), (2i + 1, 2j) and (2i + 1, 2j + 1) of some windows, for one head."""
    C: tl.constexpr = HEADS * DIM
    window = tl.program_id(0) * BLOCK_WINDOWS + tl.arange(0, BLOCK_WINDOWS)
    head = tl.program_id(1)
    d = tl.program_id(2) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)[None, :]
    j = (window % w)[:, None]
    i = (window // w % h)[:, None]
    here = (window < windows)[:, None]
    right = here & (j + 1 < w)
    below = here & (i + 1 < h)
    across = right & below
    channel = d < DIM

    number = window.to(tl.int64)[:, None]
    v = values + number * 9 * C + head * DIM + d  # addresses (windows, channels)
    a = attention + (number * HEADS + head) * 81  # (windows, 1)
    a_right = a + HEADS * 81
    a_below = a + w * HEADS * 81
    a_across = a_below + HEADS * 81
    even_even = tl.zeros([BLOCK_WINDOWS, BLOCK_DIM], SUM)
    even_odd = tl.zeros([BLOCK_WINDOWS, BLOCK_DIM], SUM)
    odd_even = tl.zeros([BLOCK_WINDOWS, BLOCK_DIM], SUM)
    odd_odd = tl.zeros([BLOCK_WINDOWS, BLOCK_DIM], SUM)
    for s in tl.static_range(9):
        v_here = tl.load(v + s * C, mask=here & channel, other=0).to(SUM)
        v_right = tl.load(v + (9 + s) * C, mask=right & channel, other=0).to(SUM)
        v_below = tl.load(v + (9 * w + s) * C, mask=below & channel, other=0).to(SUM)
        v_across = tl.load(v + (9 * w + 9 + s) * C, mask=across & channel, other=0).to(SUM)
        even_even += tl.load(a + 4 * 9 + s, mask=here, other=0).to(SUM) * v_here
        even_odd += tl.load(a + 5 * 9 + s, mask=here, other=0).to(SUM) * v_here
        even_odd += tl.load(a_right + 3 * 9 + s, mask=right, other=0).to(SUM) * v_right
        odd_even += tl.load(a + 7 * 9 + s, mask=here, other=0).to(SUM) * v_here
        odd_even += tl.load(a_below + 1 * 9 + s, mask=below, other=0).to(SUM) * v_below
        odd_odd += tl.load(a + 8 * 9 + s, mask=here, other=0).to(SUM) * v_here
        odd_odd += tl.load(a_right + 6 * 9 + s, mask=right, other=0).to(SUM) * v_right
        odd_odd += tl.load(a_below + 2 * 9 + s, mask=below, other=0).to(SUM) * v_below
        odd_odd += tl.load(a_across + 0 * 9 + s, mask=across, other=0).to(SUM) * v_across

    y = out + ((number // (h * w) * height + 2 * i) * width + 2 * j) * C + head * DIM + d
    column = here & channel & (2 * j + 1 < width)  # an odd border has no odd positions
    row = here & channel & (2 * i + 1 < height)
    tl.store(y, even_even, mask=here & channel)
    tl.store(y + C, even_odd, mask=column)
    tl.store(y + width * C, odd_even, mask=row)
    tl.store(y + width * C + C, odd_odd, mask=row & column)


@triton.jit
def _mix_backward(
    grad: tl.tensor,
    values: tl.tensor,
    attention: tl.tensor,
    grad_values: tl.tensor,
    grad_attention: tl.tensor,
    h: int,
    w: int,
    height: int,
    width: int,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
) -> None:
    """Of one head of one window, dL/dA = g v^T and dL/dv = A^T g, where g (9, d) is dL/dy at its taps."""
    C: tl.constexpr = HEADS * DIM
    window = tl.program_id(0)
    head = tl.program_id(1)
    number = window.to(tl.int64)
    tap = tl.arange(0, 16)
    row = window // w % h * 2 - 1 + tap // 3
    column = window % w * 2 - 1 + tap % 3
    inside = (tap < 9) & (row >= 0) & (row < height) & (column >= 0) & (column < width)

    g_rows = grad + ((number // (h * w) * height + row) * width + column)[:, None] * C + head * DIM
    v_rows = (number * 9 + tap)[:, None] * C + head * DIM
    square = (number * HEADS + head) * 81 + tap[:, None] * 9 + tap[None, :]
    in_square = (tap < 9)[:, None] & (tap < 9)[None, :]
    a = tl.load(attention + square, mask=in_square, other=0).to(SUM)
    grad_a = tl.zeros([16, 16], SUM)
    for start in range(0, DIM, BLOCK_DIM):
        d = start + tl.arange(0, BLOCK_DIM)[None, :]
        in_values = (tap < 9)[:, None] & (d < DIM)
        g = tl.load(g_rows + d, mask=inside[:, None] & (d < DIM), other=0).to(SUM)
        v = tl.load(values + v_rows + d, mask=in_values, other=0).to(SUM)
        grad_a += tl.dot(g, tl.trans(v), input_precision=PRECISION, out_dtype=SUM)
        grad_v = tl.dot(tl.trans(a), g, input_precision=PRECISION, out_dtype=SUM)
        tl.store(grad_values + v_rows + d, grad_v, mask=in_values)
    tl.store(grad_attention + square, grad_a, mask=in_square)


@torch.library.custom_op("featherbone::csa_mix", mutates_args=())
def csa_mix(values: Tensor, attention: Tensor, height: int, width: int) -> Tensor:
    """As `mix_windows`."""
    b, h, w, heads, dim = _sizes(values, attention, height, width)
    out = values.new_empty(b, height, width, heads * dim)
    if not out.numel():
        return out
    block_dim = min(triton.next_power_of_2(dim), CHANNELS)
    block_windows = max(TILE // (block_dim * values.element_size()), 1)
    grid = (triton.cdiv(b * h * w, block_windows), heads, triton.cdiv(dim, block_dim))
    with torch.cuda.device_of(values):
        _mix[grid](
            values.contiguous(),
            attention.contiguous(),
            out,
            *(b * h * w, h, w, height, width),
            HEADS=heads,
            DIM=dim,
            SUM=sum_type(values),
            BLOCK_WINDOWS=block_windows,
            BLOCK_DIM=block_dim,
            num_warps=4,
            enable_fp_fusion=True,
        )
    return out


@torch.library.custom_op("featherbone::csa_mix_backward", mutates_args=())
def csa_mix_backward(grad: Tensor, values: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `mix_windows` for its values and its attention, from `grad` (B, H, W, C) for its result."""
    height, width = grad.shape[1:3]
    b, h, w, heads, dim = _sizes(values, attention, height, width)
    grad_values, grad_attention = contiguous_like(values), contiguous_like(attention)
    if not grad.numel():
        return grad_values, grad_attention
    tf32 = values.dtype.itemsize == 2 and not torch.version.hip  # holds half precision exactly; not every AMD has it
    with torch.cuda.device_of(values):
        _mix_backward[(b * h * w, heads)](
            grad.contiguous(),
            values.contiguous(),
            attention.contiguous(),
            grad_values,
            grad_attention,
            *(h, w, height, width),
            HEADS=heads,
            DIM=dim,
            SUM=sum_type(values),
            PRECISION="tf32" if tf32 else "ieee",
            BLOCK_DIM=max(16, min(triton.next_power_of_2(dim), CHANNELS)),
            num_warps=1,
            enable_fp_fusion=True,
        )
    return grad_values, grad_attention


def _sizes(values: Tensor, attention: Tensor, height: int, width: int) -> tuple[int, int, int, int, int]:
    """B, h, w, heads, d, if they agree: a kernel would read past the end of what is too small."""
    b, h, w, _, c = values.shape
    heads = attention.shape[3]
    halves = ((height + 1) // 2, (width + 1) // 2) == (h, w)
    shapes = values.shape[3] == 9 and attention.shape == (b, h, w, heads, 81) and heads and c % heads == 0
    if not (halves and shapes):
        raise ValueError(
            f"values {tuple(values.shape)} and attention {tuple(attention.shape)} do not make a map {height}x{width}; "
            "they are (B, h, w, 9, C) and (B, h, w, heads, 81), h and w half the map's sides, rounded up"
        )
    return b, h, w, heads, c // heads


def sum_type(*tensors: Tensor) -> tl.dtype:
    """The type in which a kernel adds up values of tensors."""
    return tl.float64 if any(x.dtype == torch.float64 for x in tensors) else tl.float32


def contiguous_like(x: Tensor) -> Tensor:
    """Memory for a contiguous tensor like x."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@csa_mix.register_fake
def _(values: Tensor, attention: Tensor, height: int, width: int) -> Tensor:
    return values.new_empty(values.shape[0], height, width, values.shape[4])


@csa_mix_backward.register_fake
def _(grad: Tensor, values: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
    return contiguous_like(values), contiguous_like(attention)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *csa_mix_backward(grad, *ctx.saved_tensors), None, None


csa_mix.register_autograd(_gradients, setup_context=_keep)
