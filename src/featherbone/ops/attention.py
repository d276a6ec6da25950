"""Attention of queries to keys: torch's fused operator, or, for devices, spelt out."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional as F

_device_form: ContextVar[bool] = ContextVar("device_form", default=False)


@contextmanager
def device_form() -> Iterator[None]:
    """Operators export in the form that devices take whole, where theirs differs. Nothing but an export is changed."""
    token = _device_form.set(True)
    try:
        yield
    finally:
        _device_form.reset(token)


def in_device_form(*sizes: int) -> bool:
    """Whether an export for a device is under way in which these sizes are known."""
    known = not any(isinstance(size, torch.SymInt) for size in sizes)
    return torch.compiler.is_exporting() and _device_form.get() and known


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T d^-1/2 + B) v of each head.

    `q` (B, heads, N, d), `k` and `v` (B, heads, M, d), `bias` B (1, heads, N, M). Gives (B, heads, N, d).
    """
    if in_device_form():  # the fused operator brings guards against rows of -inf, outside of a phone's delegate
        return attention_plain(q, k, v, bias)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def attention_plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same by two matrix products."""
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
    return (scores if bias is None else scores + bias).softmax(-1) @ v
