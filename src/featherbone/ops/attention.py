"""Attention of queries to keys: softmax(q k^T d^-1/2 + B) v of each head."""

from torch import Tensor
from torch.nn import functional as F


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """By torch's fused operator: `q` (B, heads, N, d), `k`, `v` (B, heads, M, d), `bias` B (1, heads, N, M).

    Returns (B, heads, N, d).
    """
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def attention_plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """By two matrix products; exported, the fused operator would add guards against rows of -inf."""
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
    return (scores if bias is None else scores + bias).softmax(-1) @ v
