"""LIT: sampling points of deformable token merging, and attention in the stages that have it."""

import math
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from featherbone.backbones.lit import LIT, Attention
from featherbone.explainers.capture import inputs_of
from featherbone.explainers.figures import DPI, HOW_TO_READ, WIDTH, Picture, Section, attention_sheet, render
from featherbone.explainers.view import View
from featherbone.ops.deform import TAPS, sampling_points

TAP_COLOURS = ("#ffb000", "#fe6100", "#dc267f", "#648fff")  # IBM's colour-blind safe palette
MAX_WINDOWS = 12  # per side; more arrows could not be distinguished


@torch.no_grad()
def lit_sections(net: LIT, x: Tensor, view: View) -> list[Section]:
    """Offsets of the mergings before stages 2 to 4, and the last block's attention; x is (1, 3, H, W)."""
    merges = [stage.embed for stage in net.stages[1:] if stage.embed.offset is not None]
    attentions = {i: stage.blocks[-1].attn for i, stage in enumerate(net.stages) if stage.blocks[-1].attn is not None}
    inputs = inputs_of([*merges, *attentions.values()], net, x)
    sections = []
    if merges:
        offsets = [merge.offsets(*inputs[merge]) for merge in merges]
        text = (
            "Four positions are merged into one, with learned sampling points: each arrow runs from a tap of the "
            "regular 2 × 2 grid (hollow) to its sampling point (filled), at true length. Only some of the windows are "
            "drawn; outside the picture, zeros are read."
        )
        picture = Picture("dtm", draw_merges(offsets, view), offsets_caption(offsets))
        sections.append(Section("Deformable token merging (DTM)", text, (picture,)))
    pictures = []
    for i, attention in attentions.items():
        pictures += attention_pictures(attention, inputs[attention], i, view)
    if pictures:
        bias = "" if net.num_prefix_tokens else " + B"
        text = f"softmax(q kᵀ / √d{bias}) of the last block of each stage with attention. {HOW_TO_READ}"
        sections.append(Section("Attention", text, tuple(pictures)))
    return sections


def attention_pictures(attention: Attention, given: tuple[Tensor, int, int], stage: int, view: View) -> list[Picture]:
    """Maps of all heads for the query point and, if there is one, for the class token."""
    tokens, height, width = given
    stride = 4 * 2**stage
    maps = attention.attend(tokens, height, width)[0]  # (heads, N, N)
    prefix = maps.shape[1] - height * width
    row, column = view.cell(height, width, stride)
    of_point = maps[:, prefix + row * width + column, prefix:].unflatten(1, (height, width))
    titles = [f"head {h + 1}" for h in range(attention.num_heads)]
    name = f"attention-stage{stage + 1}"
    caption = f"Stage {stage + 1}, the query at the ring."
    pictures = [Picture(name, attention_sheet(view, of_point, stride, titles), caption)]
    if prefix:
        of_class = maps[:, 0, prefix:].unflatten(1, (height, width))
        caption = (
            f"Stage {stage + 1}, the class token. On average over the heads, {maps[:, 0, 0].mean():.1%} of its "
            "attention is on itself."
        )
        drawn = attention_sheet(view, of_class, stride, titles, point=False)
        pictures.insert(0, Picture(f"{name}-class", drawn, caption))
    return pictures


def offsets_caption(offsets: list[Tensor]) -> str:
    """Mean and maximum length of the offsets (1, 8, h, w) of each merging."""
    lengths = [o.unflatten(1, (TAPS, 2)).norm(dim=2) for o in offsets]  # (1, 4, h, w)
    distances = (
        f"into stage {i + 2} mean {length.mean():.2f}, maximum {length.max():.2f}" for i, length in enumerate(lengths)
    )
    note = " All offsets are zero, as they are at initialisation." if all(not o.any() for o in offsets) else ""
    return f"Length of the offsets in positions: {'; '.join(distances)}.{note}"


def tap_pixels(offsets: Tensor, stride: int) -> Tensor:
    """Sampling points of `offsets` (1, 8, h, w): x and y (h, w, 4, 2) in pixels of the network's input.

    `stride` is that of the finer map, whose position p has its centre at (p + 1/2) stride.
    """
    y, x = sampling_points(offsets)
    return (torch.stack([x, y], dim=-1)[0] + 0.5) * stride


def draw_merges(offsets: list[Tensor], view: View) -> Image.Image:
    """The mergings side by side: arrows from regular taps to sampling points, for windows spread over the map."""
    width = min(4, WIDTH / DPI / len(offsets))
    figure = Figure(figsize=(width * len(offsets), width * view.height / view.width + 0.3), layout="constrained")
    arrows: dict[str, Any] = dict(angles="xy", scale_units="xy", scale=1, units="dots", width=1.5, headwidth=4)
    hollow: dict[str, Any] = dict(markersize=4, markerfacecolor="none", markeredgewidth=0.8)
    for i, (offset, axes) in enumerate(zip(offsets, figure.subplots(1, len(offsets), squeeze=False)[0], strict=True)):
        axes.imshow(view.picture(800), extent=(0, view.width, view.height, 0))
        axes.set(xlim=(0, view.width), ylim=(view.height, 0))
        axes.set_axis_off()
        axes.set_title(f"into stage {i + 2}", fontsize=9, pad=3)
        step = math.ceil(max(offset.shape[2:]) / MAX_WINDOWS)
        ends, starts = (
            tap_pixels(values, 4 * 2**i)[step // 2 :: step, step // 2 :: step].cpu().numpy()
            for values in (offset, torch.zeros_like(offset))
        )
        for tap, colour in enumerate(TAP_COLOURS):
            start, end = starts[:, :, tap].reshape(-1, 2).T, ends[:, :, tap].reshape(-1, 2).T
            axes.quiver(*start, *(end - start), color=colour, **arrows)
            axes.plot(*start, "o", markeredgecolor="white", **hollow)
            axes.plot(*end, "o", markersize=2.6, color=colour)
    return render(figure)
