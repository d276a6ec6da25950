"""Operators that a CPU applies to one image after another."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def image_by_image(operator: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """The result of an operator on batches (B, ...) that treats every image separately.

    A CPU takes one image after another, whose intermediate values fit in its cache, and recomputes them for gradients
    instead of keeping them. Other devices take the whole batch.
    """
    if batches[0].device.type != "cpu" or not len(batches[0]):
        return operator(*batches)
    if any(batch.requires_grad for batch in batches) and torch.is_grad_enabled():
        operator = partial(checkpoint, operator, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([operator(*image) for image in zip(*(batch.split(1) for batch in batches), strict=True)])
