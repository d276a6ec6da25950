"""XFormer (a reconstruction): feature scores of cross feature attention, and the attention weights they imply."""

from typing import Any

import torch
from torch import Tensor

from featherbone.backbones.xformer import XFA, XFBlock, XFormer
from featherbone.explainers.capture import inputs_of
from featherbone.explainers.figures import Picture, Section, draw_panels, signed_panel
from featherbone.explainers.view import View

MAX_CHANNELS = 4  # per head; uncompressed scores have tens


@torch.no_grad()
def xformer_sections(net: XFormer, x: Tensor, view: View) -> list[Section]:
    """XFA of the last transformer layer of stages 3 to 5; empty for the softmax variant; x is (1, 3, H, W)."""
    blocks = {i: stage[-1] for i, stage in enumerate(net.stages) if isinstance(stage[-1], XFBlock)}
    attentions: dict[int, Any] = {i: block.layers[-1].attn for i, block in blocks.items()}
    if not all(isinstance(attention, XFA) for attention in attentions.values()):
        return []
    inputs = inputs_of([*blocks.values(), *attentions.values()], net, x)
    scores, weights = [], []
    for i, block in blocks.items():
        attention = attentions[i]
        height, width = inputs[block][0].shape[2:]
        stride = 4 * 2**i
        q, k, _ = (value[0] for value in attention.scores(*inputs[attention]))  # (heads, N, m)
        row, column = view.cell(height, width, stride)
        at_point = implied_weights(q, k, attention.temperature, row * width + column).unflatten(1, (height, width))
        kept = "" if q.shape[2] <= MAX_CHANNELS else f"; the {MAX_CHANNELS} largest of {q.shape[2]} channels"
        panels = [
            signed_panel(values[head, :, :, channel], stride, f"head {head + 1}, {name}{channel + 1}")
            for head in range(len(q))
            for name, values in (("q~", q.unflatten(1, (height, width))), ("k~", k.unflatten(1, (height, width))))
            for channel in strongest(values[head])
        ]
        drawn = draw_panels(view, panels, len(panels) // len(q))
        caption = f"Stage {i + 2}: on the left q~, on the right k~{kept}."
        scores.append(Picture(f"xfa-scores-stage{i + 2}", drawn, caption))
        panels = [signed_panel(values, stride, f"head {head + 1}") for head, values in enumerate(at_point)]
        drawn = draw_panels(view, panels, len(panels))
        weights.append(Picture(f"xfa-weights-stage{i + 2}", drawn, f"Stage {i + 2}, one map for each head."))
    signed = "Red is positive, blue negative; each map has its own scale, given in its title."
    of_weights = (
        "This network is a reconstruction: the paper's code was not published, so the authors' maps may differ. XFA "
        "never computes weights between positions, and has no softmax. The implied weights of the position at the ring "
        f"for the values of all others are λ q~ k~ᵀ, of either sign. {signed}"
    )
    of_scores = (
        "q~ and k~ are q and k normalised in each head and compressed to m score channels (m = 0: uncompressed). The "
        f"weights above are the sum of the maps of k~ weighted by q~ at the ring. {signed}"
    )
    return [
        Section("Implied weights of cross feature attention (XFA)", of_weights, tuple(weights)),
        Section("Feature scores", of_scores, tuple(scores)),
    ]


def implied_weights(q: Tensor, k: Tensor, temperature: Tensor, position: int) -> Tensor:
    """lambda_h q~ k~^T (heads, N) of one position; q and k are (heads, N, m)."""
    return temperature[:, None] * (k @ q[:, position, :, None])[:, :, 0]


def strongest(scores: Tensor) -> list[int]:
    """The channels of a head's scores (h, w, m) with the largest mean magnitude, in order."""
    sizes = scores.abs().mean((0, 1))
    return sorted(sizes.topk(min(len(sizes), MAX_CHANNELS)).indices.tolist())
