"""Grad-CAM: positions of the last feature map that raise the score of the predicted class (arXiv 1610.02391)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from featherbone.backbones.lit import LIT
from featherbone.explainers.capture import watch
from featherbone.explainers.figures import Panel, Picture, Section, draw_panels
from featherbone.explainers.view import View


def grad_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """ReLU(sum_k a_k F_k) (h, w) with a_k the mean of dy/dF_k over positions; both are (h, w, C)."""
    return (features * gradient.mean((0, 1))).sum(2).relu()


def last_map(net: Any, x: Tensor) -> tuple[Tensor, Any]:
    """Logits (1, K) and the features they are computed from, linked by autograd; x is (1, 3, H, W).

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


def as_map(values: Tensor, net: Any, height: int, width: int) -> Tensor:
    """Features (1, C, h, w), (1, h, w, C) or (1, P + N, C), distinguished by timm's attributes, as (h, w, C)."""
    if values.ndim == 4:
        return values[0] if getattr(net, "output_fmt", "NCHW") == "NHWC" else values[0].permute(1, 2, 0)
    tokens = values[0, getattr(net, "num_prefix_tokens", 0) :]
    return tokens.unflatten(0, grid_of(len(tokens), height, width))


def grid_of(count: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of `count` tokens: the factors of `count` closest to the aspect ratio of the image."""
    rows = [r for r in range(1, count + 1) if count % r == 0]
    best = min(rows, key=lambda r: abs(math.log(r * r / count * width / height)))
    return best, count // best


def stride_of(net: Any, view: View, height: int, width: int) -> float | None:
    """Pixels of the input per position of the last map, from timm's `feature_info`; None if it does not fit the map."""
    info = getattr(net, "feature_info", None)
    stride = info[-1]["reduction"] if isinstance(info, list) and info else 0
    sides = ((view.height, height), (view.width, width))
    return stride if stride and all(count in (side // stride, -(-side // stride)) for side, count in sides) else None


def cam_sections(net: Any, x: Tensor, view: View, classes: Sequence[str] | None) -> list[Section]:
    """Grad-CAM of the predicted class; empty without a classifier that reads a map."""
    if not net.num_classes:
        return []
    logits, features = last_map(net, x)
    if not isinstance(features, Tensor) or features.ndim not in (3, 4) or logits.ndim != 2:
        return []
    label = int(logits[0].argmax())
    (gradient,) = torch.autograd.grad(logits[0, label], features)
    maps = [as_map(value.detach(), net, view.height, view.width) for value in (features, gradient)]
    if not maps[1].any():
        return []
    cam = grad_cam(*maps)
    name = f"class {label}" if classes is None else f"“{classes[label]}”"
    nothing = "" if cam.any() else " No position raises it."
    height, width = cam.shape
    limits, title = (0.0, max(cam.max().item(), 1e-12)), f"Grad-CAM, {height} × {width} positions"
    panels = Panel("what the network saw"), Panel(title, cam, stride_of(net, view, height, width), limits)
    drawn = draw_panels(view, panels, point=False, smooth=True)
    caption = (
        f"The predicted class is {name}, at {logits[0].softmax(0)[label].item():.1%}. Bright positions of the last "
        f"feature map raise its score; dark ones lower it or have no effect.{nothing}"
    )
    text = (
        "Channels of the last feature map are summed weighted by the mean gradient of the class's score; negative sums "
        "are set to zero. The map is coarse and was enlarged; it shows where, not why."
    )
    return [Section("Evidence for the class (Grad-CAM)", text, (Picture("gradcam", drawn, caption),))]
