"""Depth-wise 3x3 convolution with dilation."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def atrous(x: Tensor, kernel: Tensor, dilation: int) -> Tensor:
    """Convolve x (B, C, H, W) with `kernel` (C, 1, 3, 3), no bias, zero outside, at the same size.

    On a CPU, torch's convolution leaves its fast path where most taps fall outside a small map (measured: up to 90
    times slower); there the taps that meet the map are added one by one. Its bf16 gradient of a dilated kernel differs
    from call to call on a CPU and can be NaN (torch 2.15), so there it is always computed in float32.
    """
    eager_cpu = x.device.type == "cpu" and not (torch.compiler.is_compiling() or torch.compiler.is_exporting())
    if eager_cpu and (x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")):
        with torch.autocast("cpu", enabled=False):
            return atrous(x.float(), kernel.float(), dilation).to(x.dtype)
    if eager_cpu and x.dtype == torch.float32 and 2 * dilation > min(x.shape[2:]):
        return _TapByTap.apply(x, kernel, dilation)
    return atrous_plain(x, kernel, dilation)


def atrous_plain(x: Tensor, kernel: Tensor, dilation: int) -> Tensor:
    """The same as one grouped convolution."""
    return F.conv2d(x, kernel, padding=dilation, dilation=dilation, groups=x.shape[1])


def _overlaps(height: int, width: int, dilation: int) -> list[tuple[int, int, Any, Any]]:
    """For each tap that meets the map: its row and column, where it writes, and where it reads."""

    def spans(size: int, shift: int) -> tuple[slice, slice]:
        return slice(max(-shift, 0), size - max(shift, 0)), slice(max(shift, 0), size - max(-shift, 0))

    found = []
    for row in range(3):
        for col in range(3):
            dy, dx = (row - 1) * dilation, (col - 1) * dilation
            if abs(dy) < height and abs(dx) < width:
                (to_y, from_y), (to_x, from_x) = spans(height, dy), spans(width, dx)
                found.append((row, col, (..., to_y, to_x), (..., from_y, from_x)))
    return found


class _TapByTap(torch.autograd.Function):
    """y[p] = sum over taps t of kernel[t] x[p + r t]; its gradients are the same sums, the other way round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.overlaps = _overlaps(x.shape[2], x.shape[3], dilation)
        y = x * kernel[:, :, 1, 1, None]
        for row, col, to, source in ctx.overlaps:
            if (row, col) != (1, 1):
                y[to].addcmul_(x[source], kernel[:, :, row, col, None])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, kernel = ctx.saved_tensors
        grad_x = grad * kernel[:, :, 1, 1, None]
        grad_kernel = torch.zeros_like(kernel)
        for row, col, to, source in ctx.overlaps:
            if (row, col) != (1, 1):
                grad_x[source].addcmul_(grad[to], kernel[:, :, row, col, None])
            grad_kernel[:, 0, row, col] = (grad[to] * x[source]).sum((0, 2, 3))
        return grad_x, grad_kernel, None
