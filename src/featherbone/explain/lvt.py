"""LVT: the kernels that CSA makes for a point, RASA's attention at each recursion, and its atrous queries."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from featherbone.backbones.lvt import CSA, DILATIONS, LVT, RASA, channels_first
from featherbone.explain.capture import inputs_of
from featherbone.explain.figures import (
    FINE,
    WIDTH,
    Picture,
    Section,
    attention_grid,
    mark,
    panels,
    render,
    show,
)
from featherbone.explain.view import View
from featherbone.ops.csa import TAPS


def windows_of(row: int, column: int, height: int, width: int) -> list[tuple[int, int, int]]:
    """Windows (row, column) among height x width that contain a position of the map, with its tap in each.

    Along an axis, position 2p is tap 1 of window p; position 2p + 1 is tap 2 of window p and tap 0 of window p + 1.
    """

    def along(position: int, count: int) -> list[tuple[int, int]]:
        p, odd = divmod(position, 2)
        found = [(p, 2), (p + 1, 0)] if odd else [(p, 1)]
        return [(window, tap) for window, tap in found if window < count]

    return [(r, c, 3 * i + j) for r, i in along(row, height) for c, j in along(column, width)]


def csa_weights(csa: CSA, x: Tensor, row: int, column: int) -> Tensor:
    """A (heads, 9, 9) of the window (row, column): how each output tap weighs the input taps; x is (1, H, W, C)."""
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
    q = channels_first(rasa.q(x))
    terms = [F.silu(F.conv2d(q, rasa.atrous, padding=r, dilation=r, groups=q.shape[1])) for r in DILATIONS]
    return torch.cat(terms).permute(0, 2, 3, 1)


@torch.no_grad()
def lvt_sections(net: LVT, x: Tensor, view: View) -> list[Section]:
    """CSA of stage 1 and RASA of stages 2 to 4, in the last block of each; x is (1, 3, H, W)."""
    attentions = [stage.blocks[-1].attn for stage in net.stages]
    inputs = {module: given[0] for module, given in inputs_of(attentions, net, x).items()}
    csa, *rasas = attentions
    responses = [atrous_responses(rasa, inputs[rasa]) for rasa in rasas]
    return [
        Section(
            "Convolutional self-attention (CSA), stage 1",
            "Every 3 × 3 window of the map makes a matrix A: row i says how output position i of the window weighs its "
            "nine input positions j, which each pass through a matrix W_j of their own. Windows lie two positions "
            "apart and their results are summed where they overlap, so a position belongs to one, two or four.",
            (Picture("csa", draw_csa(csa, inputs[csa], view), csa_caption(csa)),),
        ),
        Section(
            "Recursive atrous self-attention (RASA), stages 2 to 4",
            "softmax(q kᵀ d^-1/2) of the last block for the query at the ring: what the position there gathers. The "
            "block is applied to its own result with the same weights; each row of pictures is one recursion. "
            "Colours run from 0 (dark) to the maximum of each map, or to twice the even weight where that is more.",
            tuple(
                Picture(f"rasa-stage{i + 2}", draw_rasa(rasa, inputs[rasa], view, 8 * 2**i), f"Stage {i + 2}.")
                for i, rasa in enumerate(rasas)
            ),
        ),
        Section(
            "Atrous queries",
            "The query is a sum over the dilations r = 1, 3, 5 of SiLU(conv(q)) with one shared kernel. Shown is the "
            "length over the channels of each term, in the first recursion: where each scale answers.",
            (Picture("atrous", draw_responses(responses, view), "Rows are stages 2 to 4, columns the dilations."),),
        ),
    ]


def csa_caption(csa: CSA) -> str:
    """How to read `draw_csa`."""
    return (
        f"A row a window that contains the ring. For each of the {csa.num_heads} heads: the matrix A (rows i, columns "
        "j; the ring's own row framed), and over the picture the kernel of the window's centre, row i = 5. An even "
        "weight is 11%; taps beyond the picture see zeros."
    )


def draw_csa(csa: CSA, x: Tensor, view: View) -> Image.Image:
    """Matrices and centre kernels of the windows that contain the query point."""
    stride = 4
    height, width = x.shape[1:3]
    found = windows_of(*view.cell(height, width, stride), -(-height // 2), -(-width // 2))
    heads = csa.num_heads
    side = min(WIDTH / (2 * heads), 3)
    figure = Figure(figsize=(2 * heads * side, len(found) * (side + 0.3)), layout="constrained")
    axes = figure.subplots(len(found), 2 * heads, squeeze=False)
    for (row, column, tap), line in zip(found, axes, strict=True):
        weights = csa_weights(csa, x, row, column)
        top = max(weights.max().item(), 2 / TAPS)
        for head, (left, right) in enumerate(line.reshape(heads, 2)):
            matrix = weights[head].cpu().numpy()
            left.imshow(matrix, cmap="magma", vmin=0, vmax=top)
            left.add_patch(Rectangle((-0.5, tap - 0.5), 9, 1, fill=False, edgecolor="#00e5ff", linewidth=2))
            left.set_xticks(range(9), range(1, 10), fontsize=7)
            left.set_yticks(range(9), range(1, 10), fontsize=7)
            left.set_title(f"head {head + 1}, window {row + 1}, {column + 1}: A", fontsize=9, pad=3)
            draw_kernel(right, view, matrix[4].reshape(3, 3), 2 * row - 1, 2 * column - 1, stride, top)
            right.set_title(f"head {head + 1}: kernel of the centre", fontsize=9, pad=3)
    return render(figure)


def draw_kernel(
    axes: Axes, view: View, kernel: np.ndarray[tuple[int, int], np.dtype[np.float32]], row: int, column: int,
    stride: int, most: float,
) -> None:  # fmt: skip
    """Nine weights over the nine positions from (row, column) on, and the picture around them, enlarged."""
    axes.imshow(view.picture(4 * FINE), extent=(0, view.width, view.height, 0))
    left, top = column * stride, row * stride
    axes.imshow(
        kernel, extent=(left, left + 3 * stride, top + 3 * stride, top), cmap="magma", vmin=0, vmax=most, alpha=0.7
    )
    for (i, j), weight in np.ndenumerate(kernel):
        axes.text(
            left + (j + 0.5) * stride,
            top + (i + 0.5) * stride,
            f"{weight:.0%}",
            color="black" if weight > 0.7 * most else "white",
            fontsize=9,
            ha="center",
            va="center",
        )
    mark(axes, view.x, view.y)
    margin = 1.5 * stride
    axes.set(xlim=(left - margin, left + 3 * stride + margin), ylim=(top + 3 * stride + margin, top - margin))
    axes.set(xticks=(), yticks=())


def draw_rasa(rasa: RASA, x: Tensor, view: View, stride: int) -> Image.Image:
    """Attention of the query point, a row a recursion, a column a head."""
    height, width = x.shape[1:3]
    row, column = view.cell(height, width, stride)
    reduction = rasa.reduce.kernel_size[0] if isinstance(rasa.reduce, torch.nn.Conv2d) else 1
    shape = height // reduction, width // reduction
    maps = [step[:, row * width + column].unflatten(1, shape) for step in rasa_steps(rasa, x)]
    titles = [f"step {t + 1}, head {h + 1}" for t in range(len(maps)) for h in range(rasa.num_heads)]
    return attention_grid(view, torch.cat(maps), stride * reduction, titles, rasa.num_heads)


def draw_responses(responses: list[Tensor], view: View) -> Image.Image:
    """Lengths of the atrous terms, a row a stage."""
    figure, axes = panels(view, len(responses), len(DILATIONS), most=2.4)
    for i, (line, terms) in enumerate(zip(axes, responses, strict=True)):
        lengths = terms.norm(dim=3)  # (3, H, W)
        limits = 0.0, lengths.max().item()
        for ax, length, r in zip(line, lengths, DILATIONS, strict=True):
            title = f"stage {i + 2}, r = {r}: mean {length.mean():.2g}"
            show(ax, view, length, 8 * 2**i, title, limits=limits, colours="viridis", point=False)
    return render(figure)
