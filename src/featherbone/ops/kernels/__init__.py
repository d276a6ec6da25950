"""Triton kernels of operators that a GPU would otherwise run as dozens of small ones; not measured on a GPU.

Nothing here imports triton but `csa` and `deform`, which are imported where they are called.
"""

from importlib.util import find_spec

import torch
from torch import Tensor

TRITON = find_spec("triton") is not None
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SMALLEST = 1 << 16  # elements; below, starting a kernel outweighs its work: a guess


def usable(x: Tensor) -> bool:
    """Whether the kernels can and should take maps x: on a GPU with triton, in a usual dtype, of some size.

    Not in an export, whose program must run where featherbone is not installed.
    """
    return TRITON and x.is_cuda and x.dtype in DTYPES and not torch.compiler.is_exporting() and x.numel() >= SMALLEST
