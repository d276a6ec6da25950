"""Operators that a CPU applies to a few images of a batch at a time."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

PIECE = 2**16
"""Values of the first batch that are processed at once: what is computed from them fits in the cache of one core."""


def piecewise(operator: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """The result of an operator on batches (B, ...) that treats every image separately.

    A CPU takes one large image or several small ones at a time, whose intermediate values fit in its cache, and
    recomputes them for gradients instead of keeping them. Other devices take the whole batch.
    """
    if batches[0].device.type != "cpu" or not len(batches[0]):
        return operator(*batches)
    if any(batch.requires_grad for batch in batches) and torch.is_grad_enabled():
        operator = partial(checkpoint, operator, use_reentrant=False, preserve_rng_state=False)
    images = max(1, PIECE // batches[0][0].numel())
    return torch.cat([operator(*piece) for piece in zip(*(batch.split(images) for batch in batches), strict=True)])
