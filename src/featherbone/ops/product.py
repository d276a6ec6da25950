"""Matrix products by the fastest library that torch brings."""

import torch
from torch import Tensor
from torch.nn import functional as F

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer, x W^T + b, of x (..., C), W (D, C) and b (D).

    On a CPU in float32, where the value alone is asked for, by oneDNN, which on AMD's processors is twice as fast as
    the BLAS that torch ships. Gradients, other types and devices, and whoever records the operators, get `linear`.
    """
    usual = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu" and x.numel()
    recorded = torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch._C._len_torch_dispatch_stack()
    learned = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if not (ONEDNN and usual) or recorded or learned or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
