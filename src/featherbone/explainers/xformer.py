"""XFormer (a reconstruction): feature scores of cross feature attention, and the attention weights they imply."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from featherbone.backbones.xformer import XFA, XFBlock, XFormer
from featherbone.explainers.capture import inputs_of
from featherbone.explainers.figures import Picture, Section, Sheet
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
        drawn = draw_scores(
            {"q~": q.unflatten(1, (height, width)), "k~": k.unflatten(1, (height, width))}, view, stride
        )
        caption = f"Stage {i + 2}: on the left q~, on the right k~{kept}."
        scores.append(Picture(f"xfa-scores-stage{i + 2}", drawn, caption))
        drawn = draw_weights(at_point, view, stride)
        weights.append(Picture(f"xfa-weights-stage{i + 2}", drawn, f"Stage {i + 2}, one map for each head."))
    signed = "Red is positive, blue negative; each map has its own scale, given in its title."
    return [
        Section(
            "Implied weights of cross feature attention (XFA)",
            "This network is a reconstruction: the paper's code was not published, so the authors' maps may differ. "
            "XFA never computes weights between positions, and has no softmax. The implied weights of the position at "
            f"the ring for the values of all others are λ q~ k~ᵀ, of either sign. {signed}",
            tuple(weights),
        ),
        Section(
            "Feature scores",
            "q~ and k~ are q and k normalised in each head and compressed to m score channels (m = 0: uncompressed). "
            f"The weights above are the sum of the maps of k~ weighted by q~ at the ring. {signed}",
            tuple(scores),
        ),
    ]


def implied_weights(q: Tensor, k: Tensor, temperature: Tensor, position: int) -> Tensor:
    """lambda_h q~ k~^T (heads, N) of one position; q and k are (heads, N, m)."""
    return temperature[:, None] * (k @ q[:, position, :, None])[:, :, 0]


def strongest(scores: Tensor) -> list[int]:
    """The channels of a head's scores (h, w, m) with the largest mean magnitude, in order."""
    sizes = scores.abs().mean((0, 1))
    return sorted(sizes.topk(min(len(sizes), MAX_CHANNELS)).indices.tolist())


def draw_scores(scores: dict[str, Tensor], view: View, stride: int) -> Image.Image:
    """Scores (heads, h, w, m) by name, side by side, a row for each head."""
    count, shown = len(scores["q~"]), min(scores["q~"].shape[3], MAX_CHANNELS)
    columns = len(scores) * shown
    sheet = Sheet(view, count * columns, columns)
    for head in range(count):
        for name, values in scores.items():
            for channel in strongest(values[head]):
                sheet.show_signed(values[head, :, :, channel], stride, f"head {head + 1}, {name}{channel + 1}")
    return sheet.image()


def draw_weights(weights: Tensor, view: View, stride: int) -> Image.Image:
    """Maps (heads, h, w) side by side."""
    sheet = Sheet(view, len(weights), len(weights))
    for head, values in enumerate(weights):
        sheet.show_signed(values, stride, f"head {head + 1}")
    return sheet.image()
