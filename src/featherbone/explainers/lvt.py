"""LVT: the kernels that CSA computes for a point, RASA's attention in each recursion, and its atrous queries."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from featherbone.backbones.lvt import CSA, DILATIONS, LVT, RASA, channels_first
from featherbone.explainers.capture import inputs_of
from featherbone.explainers.figures import (
    DPI,
    HOW_TO_READ,
    POINT,
    WIDTH,
    Array,
    Panel,
    Picture,
    Section,
    attention_sheet,
    draw_panels,
    render,
)
from featherbone.explainers.view import View
from featherbone.ops.csa import TAPS

STRIDE = 4  # of stage 1


def windows_of(row: int, column: int, height: int, width: int) -> list[tuple[int, int, int]]:
    """Of height x width windows, the (row, column) of those that contain a position, with the position's tap in each.

    Along an axis, position 2p is tap 1 of window p; position 2p + 1 is tap 2 of window p and tap 0 of window p + 1.
    """

    def along(position: int, count: int) -> list[tuple[int, int]]:
        p, odd = divmod(position, 2)
        found = [(p, 2), (p + 1, 0)] if odd else [(p, 1)]
        return [(window, tap) for window, tap in found if window < count]

    return [(r, c, 3 * i + j) for r, i in along(row, height) for c, j in along(column, width)]


def csa_weights(csa: CSA, x: Tensor, row: int, column: int) -> Tensor:
    """A (heads, 9, 9) of a window: the weights of the input taps (columns) for each output tap; x is (1, H, W, C)."""
    return csa.attend(x)[0, row, column].unflatten(1, (TAPS, TAPS))


def rasa_steps(rasa: RASA, x: Tensor) -> list[Tensor]:
    """softmax(q k^T d^-1/2) (heads, N, n) of each recursion; x is (1, H, W, C), row by row as N."""
    maps = []
    for _ in range(rasa.recursion):
        q, k, _ = rasa.project(x)
        maps.append((q @ k.transpose(2, 3) * q.shape[3] ** -0.5).softmax(-1)[0])
        x = x + rasa.attend(x)
    return maps


def atrous_responses(rasa: RASA, x: Tensor) -> Tensor:
    """The three terms of the query, SiLU(conv of q at dilation 1, 3, 5), (3, H, W, C); x is (1, H, W, C)."""
    q = rasa.q(channels_first(x))
    terms = [F.silu(F.conv2d(q, rasa.atrous, padding=r, dilation=r, groups=q.shape[1])) for r in DILATIONS]
    return torch.cat(terms).permute(0, 2, 3, 1)


@torch.no_grad()
def lvt_sections(net: LVT, x: Tensor, view: View) -> list[Section]:
    """CSA of stage 1 and RASA of stages 2 to 4, in the last block of each; x is (1, 3, H, W)."""
    attentions = [stage.blocks[-1].attn for stage in net.stages]
    inputs = {module: given[0] for module, given in inputs_of(attentions, net, x).items()}
    csa, *rasas = attentions
    text = (
        "Every 3 × 3 window of the map has a matrix A: row i has the weights of the nine input positions j for output "
        "position i; each input position is multiplied by its own matrix W_j. Windows have stride 2 and their results "
        "are summed where they overlap, so a position is in one, two or four windows."
    )
    caption = (
        "One row for each window that contains the ring. For every head: the matrix A (rows i, columns j; the row of "
        "the ring framed), and over the picture the kernel of the window's centre, row i = 5. A uniform weight is 11%; "
        "positions outside the picture are zeros."
    )
    kernels = Picture("csa", draw_csa(csa, inputs[csa], view), caption)
    sections = [Section("Convolutional self-attention (CSA), stage 1", text, (kernels,))]
    text = (
        "softmax(q kᵀ / √d) of the last block for the query at the ring. The attention is applied repeatedly with the "
        f"same weights: one row for each step. {HOW_TO_READ}"
    )
    maps = (draw_rasa(rasa, inputs[rasa], view, 8 * 2**i) for i, rasa in enumerate(rasas))
    pictures = tuple(Picture(f"rasa-stage{stage}", drawn, f"Stage {stage}.") for stage, drawn in enumerate(maps, 2))
    sections.append(Section("Recursive atrous self-attention (RASA), stages 2 to 4", text, pictures))
    text = (
        "The query is the sum of SiLU(conv(q)) over the dilations r = 1, 3, 5 with one shared kernel. Shown is the "
        "norm over the channels of each term in the first recursion."
    )
    drawn = draw_responses([atrous_responses(rasa, inputs[rasa]) for rasa in rasas], view)
    queries = Picture("atrous", drawn, "Rows are stages 2 to 4, columns are dilations.")
    return [*sections, Section("Atrous queries", text, (queries,))]


def draw_csa(csa: CSA, x: Tensor, view: View) -> Image.Image:
    """Matrices and centre kernels of the windows that contain the query point."""
    height, width = x.shape[1:3]
    found = windows_of(*view.cell(height, width, STRIDE), -(-height // 2), -(-width // 2))
    side = WIDTH / DPI / (2 * csa.num_heads)
    figure = Figure(figsize=(WIDTH / DPI, len(found) * (side + 0.3)), layout="constrained")
    axes = figure.subplots(len(found), 2 * csa.num_heads, squeeze=False)
    for (row, column, tap), line in zip(found, axes, strict=True):
        weights = csa_weights(csa, x, row, column).cpu().numpy()
        limit = max(weights.max(), 2 / TAPS)
        for head, (left, right) in enumerate(line.reshape(-1, 2)):
            left.imshow(weights[head], cmap="magma", vmin=0, vmax=limit)
            left.add_patch(Rectangle((-0.5, tap - 0.5), TAPS, 1, fill=False, edgecolor=POINT, linewidth=2))
            left.set_xticks(range(TAPS), range(1, TAPS + 1), fontsize=7)
            left.set_yticks(range(TAPS), range(1, TAPS + 1), fontsize=7)
            left.set_title(f"head {head + 1}, window {row + 1}, {column + 1}: A", fontsize=9, pad=3)
            draw_kernel(right, view, weights[head, TAPS // 2].reshape(3, 3), row, column, limit)
            right.set_title(f"head {head + 1}: kernel of the centre", fontsize=9, pad=3)
    return render(figure)


def draw_kernel(axes: Axes, view: View, kernel: Array, row: int, column: int, limit: float) -> None:
    """The nine weights of a window on its positions, over an enlarged part of the picture."""
    left, top = (2 * column - 1) * STRIDE, (2 * row - 1) * STRIDE
    right, bottom, margin = left + 3 * STRIDE, top + 3 * STRIDE, 1.5 * STRIDE
    axes.imshow(view.picture(4 * WIDTH // 3), extent=(0, view.width, view.height, 0))
    axes.imshow(kernel, extent=(left, right, bottom, top), cmap="magma", vmin=0, vmax=limit, alpha=0.7)
    for (i, j), weight in np.ndenumerate(kernel):
        x, y, colour = left + (j + 0.5) * STRIDE, top + (i + 0.5) * STRIDE, "black" if weight > 0.7 * limit else "white"
        axes.text(x, y, f"{weight:.0%}", color=colour, fontsize=9, ha="center", va="center")
    axes.plot(view.x, view.y, "o", markersize=6.5, markerfacecolor="none", markeredgecolor=POINT, markeredgewidth=1.4)
    axes.set(xlim=(left - margin, right + margin), ylim=(bottom + margin, top - margin), xticks=(), yticks=())


def draw_rasa(rasa: RASA, x: Tensor, view: View, stride: int) -> Image.Image:
    """Attention of the query point, a row for each recursion, a column for each head."""
    height, width = x.shape[1:3]
    row, column = view.cell(height, width, stride)
    reduction = rasa.reduce.kernel_size[0] if isinstance(rasa.reduce, nn.Conv2d) else 1
    shape = height // reduction, width // reduction
    maps = [step[:, row * width + column].unflatten(1, shape) for step in rasa_steps(rasa, x)]
    titles = [f"step {t + 1}, head {h + 1}" for t in range(len(maps)) for h in range(rasa.num_heads)]
    return attention_sheet(view, torch.cat(maps), stride * reduction, titles, rasa.num_heads)


def draw_responses(responses: list[Tensor], view: View) -> Image.Image:
    """Norms of the atrous terms, a row for each stage."""
    panels = []
    for i, terms in enumerate(responses):
        lengths = terms.norm(dim=3)  # (3, H, W)
        limits = 0.0, lengths.max().item()
        for length, r in zip(lengths, DILATIONS, strict=True):
            title = f"stage {i + 2}, r = {r}: mean {length.mean():.2g}"
            panels.append(Panel(title, length, 8 * 2**i, limits, "viridis"))
    return draw_panels(view, panels, len(DILATIONS), max_width=240, point=False)
