"""LIT: where the taps of deformable token merging look, and attention in the stages that have it."""

import math

import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from featherbone.backbones.lit import LIT, Attention
from featherbone.explain.capture import inputs_of
from featherbone.explain.figures import Picture, Section, attention_grid, columns_of, panels, render, show
from featherbone.explain.view import View
from featherbone.ops.deform import TAPS, sampling_points

TAP_COLOURS = ("#ffb000", "#fe6100", "#dc267f", "#648fff")  # IBM's colour-blind safe palette
MOST_WINDOWS = 12  # along a side: more arrows cannot be told apart


@torch.no_grad()
def lit_sections(net: LIT, x: Tensor, view: View) -> list[Section]:
    """Offsets of the mergings before stages 2 to 4, and the last block's attention; x is (1, 3, H, W)."""
    merges = [stage.embed for stage in net.stages[1:] if stage.embed.offset is not None]
    attentions = {i: stage.blocks[-1].attn for i, stage in enumerate(net.stages) if stage.blocks[-1].attn is not None}
    inputs = inputs_of([*merges, *attentions.values()], net, x)
    sections = []
    if merges:
        offsets = [merge.offsets(*inputs[merge]) for merge in merges]
        sections.append(
            Section(
                "Deformable token merging (DTM)",
                "Four positions become one, and the network learns where to look them up: each arrow runs from a tap "
                "of the regular 2 × 2 grid (hollow) to its learned sampling point (filled), at true length. Only some "
                "of the windows are drawn; what lies beyond the picture is read as zero.",
                (Picture("dtm", draw_merges(offsets, view), offsets_caption(offsets)),),
            )
        )
    pictures = []
    for i, attention in attentions.items():
        pictures += attention_pictures(attention, inputs[attention], i, view)
    if pictures:
        sections.append(
            Section(
                "Attention",
                "softmax(q kᵀ d^-1/2 + B) of the last block of each stage that attends. Colours run from 0 (dark) to "
                "the maximum of each map, or to twice the even weight where that is more.",
                tuple(pictures),
            )
        )
    return sections


def attention_pictures(attention: Attention, given: tuple[Tensor, int, int], stage: int, view: View) -> list[Picture]:
    """Maps of all heads for the query point and, where there is one, for the class token."""
    tokens, height, width = given
    stride = 4 * 2**stage
    maps = attention.attend(tokens, height, width)[0]  # (heads, N, N)
    prefix = maps.shape[1] - height * width
    row, column = view.cell(height, width, stride)
    of_point = maps[:, prefix + row * width + column, prefix:].unflatten(1, (height, width))
    titles = [f"head {h + 1}" for h in range(attention.num_heads)]
    columns = columns_of(attention.num_heads)
    name = f"attention-stage{stage + 1}"
    caption = f"Stage {stage + 1}, the query at the ring."
    pictures = [Picture(name, attention_grid(view, of_point, stride, titles, columns), caption)]
    if prefix:
        of_class = maps[:, 0, prefix:].unflatten(1, (height, width))
        caption = (
            f"Stage {stage + 1}, the class token, which the classifier reads. It keeps "
            f"{maps[:, 0, 0].mean():.1%} of its attention for itself, on the mean of the heads."
        )
        drawn = attention_grid(view, of_class, stride, titles, columns, point=False)
        pictures.insert(0, Picture(f"{name}-class", drawn, caption))
    return pictures


def offsets_caption(offsets: list[Tensor]) -> str:
    """How far the taps wander, (1, 8, h, w) for each merging."""
    lengths = [o.unflatten(1, (TAPS, 2)).norm(dim=2) for o in offsets]  # (1, 4, h, w)
    told = (
        f"into stage {i + 2} by {length.mean():.2f} positions on average, {length.max():.2f} at most"
        for i, length in enumerate(lengths)
    )
    unlearned = " Nothing is learned yet: offsets begin at zero." if all(not o.any() for o in offsets) else ""
    return f"Taps wander: {'; '.join(told)}.{unlearned}"


def draw_merges(offsets: list[Tensor], view: View) -> Image.Image:
    """The mergings side by side."""
    figure, axes = panels(view, 1, len(offsets), most=4)
    for i, (ax, offset) in enumerate(zip(axes.flat, offsets, strict=True)):
        show(ax, view, title=f"into stage {i + 2}", point=False)
        draw_offsets(ax, offset, stride=4 * 2**i)
    return render(figure)


def tap_pixels(offsets: Tensor, stride: int) -> Tensor:
    """X and y (h, w, 4, 2), in pixels of the input, of the points that `offsets` (1, 8, h, w) make the taps look at.

    `stride` is of the finer map, whose position p has its centre at (p + 1/2) stride.
    """
    y, x = sampling_points(offsets)
    return (torch.stack([x, y], dim=-1)[0] + 0.5) * stride


def draw_offsets(axes: Axes, offsets: Tensor, stride: int) -> None:
    """Arrows from the regular taps to where they look, for windows spread over the map."""
    height, width = offsets.shape[2:]
    step = math.ceil(max(height, width) / MOST_WINDOWS)
    chosen = slice(step // 2, None, step)
    ends = tap_pixels(offsets, stride)[chosen, chosen].cpu()
    starts = tap_pixels(torch.zeros_like(offsets), stride)[chosen, chosen].cpu()
    for tap, colour in enumerate(TAP_COLOURS):
        start, end = (points[:, :, tap].reshape(-1, 2).numpy() for points in (starts, ends))
        axes.quiver(
            *start.T, *(end - start).T, color=colour, angles="xy", scale_units="xy", scale=1, width=0.004, headwidth=4
        )
        axes.plot(*start.T, "o", markersize=3, markerfacecolor="none", markeredgecolor="white", markeredgewidth=0.6)
        axes.plot(*end.T, "o", markersize=2.2, color=colour)
