"""Cross feature attention of XFormer, linear in the number of tokens (arXiv 2207.07268).

Reconstructed from the paper's abstract: no code was published.
"""

import torch
from torch import Tensor


def unit_length(x: Tensor, eps: float) -> Tensor:
    """Vectors (..., d) divided by their length, or by `eps` if that is larger."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=eps)  # F.normalize expands the length


def unit_length_plain(x: Tensor, eps: float) -> Tensor:
    """The same in basic operators."""
    return x / x.square().sum(-1, keepdim=True).sqrt().clamp(min=eps)


def cross_feature_attention(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
    """q~ (lambda_h k~^T v), with the m x d matrix k~^T v of each head first: the cost is O(N m d).

    `q` and `k` (B, heads, N, m) are the feature scores q~ and k~, `v` (B, heads, N, d) the values, `temperature`
    (heads) lambda. Gives (B, heads, N, d). There is no softmax and no division by N.
    """
    return q @ (temperature[:, None, None] * (k.transpose(-2, -1) @ v))


def cross_feature_attention_plain(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
    """The same by way of the N x N attention map lambda_h q~ k~^T."""
    return (temperature[:, None, None] * (q @ k.transpose(-2, -1))) @ v
