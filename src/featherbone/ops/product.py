"""Matrix products and convolutions, with the activation behind them, as fast as torch's libraries have them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

FUSED: dict[type, tuple[str, list[float], str]] = {
    type(None): ("none", [], ""),
    nn.GELU: ("gelu", [], "none"),
    nn.Hardswish: ("hardswish", [], ""),
    nn.ReLU: ("relu", [], ""),
    nn.SiLU: ("swish", [], ""),
}
"""Activations that oneDNN computes with a product, in its names."""


def fuses(activation: nn.Module) -> bool:
    """Whether an activation can be computed with the product before it."""
    return type(activation) in FUSED and getattr(activation, "approximate", "none") == "none"


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: nn.Module | None = None) -> Tensor:
    """A linear layer and what follows, f(x W^T + b), of x (..., C), W (D, C) and b (D); f is one that `fuses`.

    On a CPU in float32, where the value alone is asked for, by oneDNN, which on AMD's processors is twice as fast as
    the BLAS that torch ships. Gradients, other types and devices, and whoever records the operators, get `linear`.
    """
    if _by_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *FUSED[type(activation)])
    y = F.linear(x, weight, bias)
    return y if activation is None else activation(y)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: nn.Module,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """A convolution and what follows, f(W * x + b), as torch's `conv2d` has it; f is one that `fuses`.

    By oneDNN where `product` is.
    """
    if _by_onednn(x, weight):
        given = padding, stride, dilation, groups
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *given, *FUSED[type(activation)])
    return activation(F.conv2d(x, weight, bias, stride, padding, dilation, groups))


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    usual = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu" and x.numel() > 0
    recorded = torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch._C._len_torch_dispatch_stack()
    learned = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return ONEDNN and usual and not recorded and not learned and not torch.is_autocast_enabled("cpu")


def split_linear(linear: nn.Linear, parts: int) -> nn.ModuleList:
    """Linear layers that give the first, second, ... of `parts` equal parts of what `linear` gives, with its memory."""
    layers = nn.ModuleList()
    biases = [None] * parts if linear.bias is None else linear.bias.chunk(parts)
    for weight, bias in zip(linear.weight.chunk(parts), biases, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        layers.append(layer)
    return layers
