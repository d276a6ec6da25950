"""Attention rollout for plain vision transformers (arXiv 2005.00928)."""

from typing import Any

import torch
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from featherbone.explainers.cam import grid_of
from featherbone.explainers.capture import inputs_of
from featherbone.explainers.figures import HOW_TO_READ, Picture, Section, attention_sheet
from featherbone.explainers.view import View


def attentions_of(net: nn.Module) -> list[Any]:
    """Timm's plain attention modules, in order."""
    return [module for module in net.modules() if isinstance(module, Attention)]


def is_plain_vit(net: nn.Module) -> bool:
    """Whether every block attends by timm's plain attention, so that all of them see the same tokens."""
    blocks = getattr(net, "blocks", None)
    return blocks is not None and 0 < len(attentions_of(net)) == len(blocks)


@torch.no_grad()
def attention_maps(net: nn.Module, x: Tensor) -> list[Tensor]:
    """softmax(q k^T d^-1/2) (heads, N, N) of each block of a plain ViT; x is (1, 3, H, W)."""
    modules = attentions_of(net)
    fused = [module.fused_attn for module in modules]
    drops = [module.attn_drop for module in modules]  # their input is the attention, unless it is fused
    try:
        for module in modules:
            module.fused_attn = False
        inputs = inputs_of(drops, net, x)
    finally:
        for module, before in zip(modules, fused, strict=True):
            module.fused_attn = before
    return [inputs[drop][0][0] for drop in drops]


def rollout(maps: list[Tensor]) -> Tensor:
    """The product over blocks of A' = (mean over heads of A + I) / 2, last block first: (N, N), rows sum to 1."""
    product = torch.eye(maps[0].shape[-1], device=maps[0].device)
    for attention in maps:
        product = (attention.mean(0) + torch.eye(len(product), device=product.device)) / 2 @ product
    return product


def rollout_sections(net: Any, x: Tensor, view: View) -> list[Section]:
    """Rollout of the class token (or of the mean position) and of the query point, and the last block's heads."""
    maps = attention_maps(net, x)
    prefix = getattr(net, "num_prefix_tokens", 0)
    height, width = grid = grid_of(maps[0].shape[-1] - prefix, *x.shape[2:])
    stride = x.shape[2] / height
    row, column = view.cell(height, width, stride)
    total = rollout(maps)
    reader = "class token" if prefix else "mean position"
    of_reader = (total[0] if prefix else total.mean(0))[prefix:].unflatten(0, grid)
    of_point = total[prefix + row * width + column, prefix:].unflatten(0, grid)
    last = (maps[-1][:, 0] if prefix else maps[-1].mean(1))[:, prefix:].unflatten(1, grid)
    drawn = attention_sheet(view, torch.stack([of_reader, of_point]), stride, (reader, "point at the ring"))
    heads = attention_sheet(view, last, stride, [f"head {h + 1}" for h in range(len(last))], point=False)
    text = (
        "Attention multiplied through all blocks: the product of (A + I) / 2, where A is the mean over the heads and I "
        f"the residual path. It is approximate: values, MLPs and signs are ignored. {HOW_TO_READ}"
    )
    pictures = (
        Picture("rollout", drawn, f"Contribution of each patch to the {reader}, and to the patch at the ring."),
        Picture("last-block", heads, f"Attention of the {reader} in the last block, one map for each head."),
    )
    return [Section("Attention rollout", text, pictures)]
