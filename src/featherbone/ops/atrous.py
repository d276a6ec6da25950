"""Depth-wise 3x3 convolution with dilation."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def atrous(x: Tensor, kernel: Tensor, dilation: int) -> Tensor:
    """Convolve x (B, C, H, W) with `kernel` (C, 1, 3, 3), no bias, zero padding, at the same size.

    On a CPU, torch's convolution leaves its fast path where most taps are outside of a small map (measured: up to 90
    times slower); there the taps that meet the map are added one by one. Its bf16 gradient of a dilated kernel differs
    from call to call on a CPU and can be NaN (torch 2.15), so it is always computed in float32 there.
    """
    if x.device.type == "cpu":
        if x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return atrous(x.float(), kernel.float(), dilation).to(x.dtype)
        if x.dtype == torch.float32 and 2 * dilation > min(x.shape[2:]):
            return TapByTap.apply(x, kernel, dilation)
    return atrous_plain(x, kernel, dilation)


def atrous_plain(x: Tensor, kernel: Tensor, dilation: int) -> Tensor:
    """The same as one grouped convolution."""
    return F.conv2d(x, kernel, padding=dilation, dilation=dilation, groups=x.shape[1])


class TapByTap(torch.autograd.Function):
    """y[p] = sum over taps t of kernel[t] x[p + r t]; its gradients are the same sums in the other direction."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.dilation = dilation
        y = x * kernel[:, :, 1, 1, None]
        for row, col, target, source in _overlaps(x.shape[2], x.shape[3], dilation):
            if (row, col) != (1, 1):
                y[target].addcmul_(x[source], kernel[:, :, row, col, None])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, kernel = ctx.saved_tensors
        grad_x = grad * kernel[:, :, 1, 1, None]
        grad_kernel = torch.zeros_like(kernel)
        for row, col, target, source in _overlaps(x.shape[2], x.shape[3], ctx.dilation):
            if (row, col) != (1, 1):
                grad_x[source].addcmul_(grad[target], kernel[:, :, row, col, None])
            grad_kernel[:, 0, row, col] = (grad[target] * x[source]).sum((0, 2, 3))
        return grad_x, grad_kernel, None


def _overlaps(height: int, width: int, dilation: int) -> list[tuple[int, int, Any, Any]]:
    """For each tap that meets the map: its row and column, the positions that it writes, and those that it reads."""

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
