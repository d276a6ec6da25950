"""HiResCAM (arXiv 2011.08891): positions of the backbone's feature maps that raise a scalar of the prediction.

The scalar is that of an `Item`. With y the scalar and F_l the feature maps that the head reads, position p of level l
contributes sum_k F_lkp dy/dF_lkp. Contributions of all levels, spread evenly over the pixels of their positions, are
summed, and negative sums are set to 0; the sum over levels is ours. If a head averages one map and is linear, this is
Grad-CAM (arXiv 1610.02391). Grad-CAM's mean gradient over all positions would not locate an object, whose score
depends on few of them.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from featherbone.backbones.lit import LIT
from featherbone.data.frames import inner_sizes
from featherbone.explainers.capture import watch
from featherbone.tasks.dense import DenseTask


class Linked(NamedTuple):
    """Raw tensors of one input, and the features that they are computed from, linked by autograd."""

    raw: Any
    features: list[Tensor]
    """(1, C, h, w), (1, h, w, C) or (1, P + N, C), the finest first."""
    strides: list[float | None]
    """Pixels of the input per position; None for a map that covers the input, whatever its positions are."""
    net: Any
    """The timm model, whose attributes state the form of the features."""


def link(task: Any, x: Tensor) -> Linked:
    """The features of a task's backbone on x (1, C, H, W), and the raw tensors of its head on them."""
    if isinstance(task, DenseTask):
        with torch.no_grad():
            maps = [level.detach() for level in task.pyramid(x)]
        maps = [level.requires_grad_() for level in maps]
        with torch.enable_grad():
            raw = task.head(maps, inner_sizes(x))
        return Linked(raw, maps, [level.stride for level in task.pyramid.levels], None)
    logits, features = last_map(task.backbone, x)
    usable = isinstance(features, Tensor) and features.ndim in (3, 4) and logits.ndim == 2
    maps = [features] if usable else []
    return Linked(
        logits, maps, [stride_of(task.backbone, as_map(one, task.backbone, x), x) for one in maps], task.backbone
    )


def evidence(linked: Linked, value: Tensor, x: Tensor) -> tuple[Tensor, float | None] | None:
    """The map (h, w) of a scalar at the finest level that it depends on, and its stride; None if it depends on none."""
    maps = linked.features
    gradients = (
        torch.autograd.grad(value, maps, retain_graph=True, allow_unused=True) if maps and value.requires_grad else ()
    )
    found = []
    for features, gradient, stride in zip(maps, gradients, linked.strides, strict=True):
        shown = None if gradient is None else as_map(gradient, linked.net, x)
        if shown is not None and shown.any():
            found.append((hires_cam(as_map(features.detach(), linked.net, x), shown), stride))
    if not found:
        return None
    total, finest = found[0]
    for contributions, stride in found[1:]:
        ratio = (stride or 1) / (finest or 1)
        size = [round(side * ratio) for side in contributions.shape]
        spread = F.interpolate(contributions[None, None] / ratio**2, size=size, mode="bilinear")[0, 0]
        height, width = (max(sides) for sides in zip(total.shape, spread.shape, strict=True))
        both = (F.pad(one, (0, width - one.shape[1], 0, height - one.shape[0])) for one in (total, spread))
        total = torch.stack(list(both)).sum(0)
    return total.relu(), finest


def hires_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """sum_k F_k dy/dF_k (h, w); both are (h, w, C)."""
    return (features * gradient).sum(2)


def last_map(net: Any, x: Tensor) -> tuple[Tensor, Any]:
    """Logits (1, K) and the features they are computed from, linked by autograd; x is (1, C, H, W).

    The features are the result of timm's `forward_features`, or, if the classifier reads only its class token, the
    input of the last block's attention.
    """
    if isinstance(net, LIT) and net.global_pool == "token":
        attention = net.stages[-1].blocks[-1].attn
        with watch([attention]) as inputs, torch.enable_grad():
            logits = net(x.detach().requires_grad_())
        return logits, inputs[attention][0]
    with torch.no_grad():
        found = net.forward_features(x)
    if isinstance(found, Tensor):
        found = found.detach().requires_grad_()
    with torch.enable_grad():
        return net.forward_head(found), found


def as_map(values: Tensor, net: Any, x: Tensor) -> Tensor:
    """Features of x (1, C, H, W) in any of the forms of `Linked`, distinguished by timm's attributes, as (h, w, C)."""
    if values.ndim == 4:
        return values[0] if getattr(net, "output_fmt", "NCHW") == "NHWC" else values[0].permute(1, 2, 0)
    tokens = values[0, getattr(net, "num_prefix_tokens", 0) :]
    return tokens.unflatten(0, grid_of(len(tokens), *x.shape[2:]))


def grid_of(count: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of `count` tokens: the factors of `count` closest to the aspect ratio of the image."""
    rows = [r for r in range(1, count + 1) if count % r == 0]
    best = min(rows, key=lambda r: abs(math.log(r * r / count * width / height)))
    return best, count // best


def stride_of(net: Any, shown: Tensor, x: Tensor) -> float | None:
    """Pixels of x per position of its last map (h, w, C), from timm's `feature_info`; None if it does not fit."""
    info = getattr(net, "feature_info", None)
    stride = info[-1]["reduction"] if isinstance(info, list) and info else 0
    sides: Sequence[tuple[int, int]] = list(zip(x.shape[2:], shown.shape[:2], strict=True))
    return stride if stride and all(count in (side // stride, -(-side // stride)) for side, count in sides) else None
