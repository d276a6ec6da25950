"""Operators that a CPU applies to one image after another."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def image_by_image(operator: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """An operator of batches (B, ...) that treats every image alike; gives what it gives of all at once.

    A CPU takes one image after another, whose intermediate values its cache holds, and for gradients computes them
    again instead of keeping them. Other devices, and graphs, take all images at once.
    """
    eager_cpu = batches[0].device.type == "cpu" and not (torch.compiler.is_compiling() or torch.compiler.is_exporting())
    if not (eager_cpu and len(batches[0])):
        return operator(*batches)
    if torch.is_grad_enabled():
        operator = partial(checkpoint, operator, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([operator(*image) for image in zip(*(batch.split(1) for batch in batches), strict=True)])
