"""Maps drawn over the picture that the network saw; all axes are in pixels of the network's input."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from featherbone.draw import legible
from featherbone.explain.view import View

WIDTH = 12.0  # inches of a full row
DPI = 100
FINE = 480  # pixels across a picture before matplotlib fits it into its panel
POINT = "#00e5ff"


@dataclass(frozen=True)
class Picture:
    """A picture with a file name (without its suffix) and a caption."""

    name: str
    image: Image.Image
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading of the page, what the reader must know of it, and its pictures."""

    title: str
    text: str
    pictures: tuple[Picture, ...]


def columns_of(count: int, most: int = 8) -> int:
    """Columns of a grid of `count` panels: one row if it fits, else the most that leave no gap, if that is not few."""
    if count <= most:
        return count
    return next((n for n in range(most, most // 2, -1) if count % n == 0), most)


def panels(view: View, rows: int, columns: int, most: float = 3.6) -> tuple[Figure, np.ndarray[Any, Any]]:
    """A figure and its rows x columns axes, each of the view's shape and at most `most` inches wide."""
    wide = min(most, WIDTH / columns)
    figure = Figure(figsize=(columns * wide, rows * (wide * view.height / view.width + 0.28)), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes


def show(
    axes: Axes,
    view: View,
    values: Tensor | None = None,
    stride: float | None = None,
    title: str = "",
    *,
    limits: tuple[float, float] = (0, 1),
    colours: str = "magma",
    smooth: bool = False,
    point: bool = True,
) -> None:
    """The picture in grey under a map (h, w) in colours, or without a map in its own colours; the query point.

    Position (row, column) of the map covers `stride` pixels each way; without it the map covers the picture. Limits
    around 0 are signed: the nearer a value is to 0, the clearer the picture.
    """
    whole = (0.0, view.width, view.height, 0.0)
    picture = view.picture(FINE)
    if values is None:
        axes.imshow(picture, extent=whole)
    else:
        axes.imshow(picture.convert("L"), extent=whole, cmap="gray", vmin=0, vmax=255)
        array = values.detach().float().cpu().numpy()
        covered = whole if stride is None else (0, array.shape[1] * stride, array.shape[0] * stride, 0)
        alpha = 0.9 * np.clip(np.abs(array) / limits[1], 0, 1) ** 0.7 if limits[0] < 0 else 0.62
        axes.imshow(
            array,
            extent=covered,
            cmap=colours,
            vmin=limits[0],
            vmax=limits[1],
            alpha=alpha,
            interpolation="bilinear" if smooth else "nearest",
        )
    if point:
        mark(axes, view.x, view.y)
    axes.set(xlim=(0, view.width), ylim=(view.height, 0))
    axes.set_title(title, fontsize=9, pad=3)


def mark(axes: Axes, x: float, y: float) -> None:
    """The query point as a ring."""
    for colour, width in (("black", 3.4), (POINT, 1.8)):
        axes.plot(x, y, "o", markersize=8, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=width)


def show_attention(axes: Axes, view: View, weights: Tensor, stride: float | None, title: str, point: bool) -> None:
    """Weights (h, w) of a distribution, coloured from 0 to its maximum, or to twice the even share if that is more."""
    most, even = weights.max().item(), 1 / weights.numel()
    title = f"{title}: max {most / even:.1f}× even"
    show(axes, view, weights, stride, title, limits=(0.0, max(most, 2 * even)), point=point)


def show_signed(axes: Axes, view: View, values: Tensor, stride: float, title: str, point: bool = True) -> None:
    """Values (h, w) of either sign, red above 0 and blue below."""
    most = max(values.abs().max().item(), 1e-12)
    show(axes, view, values, stride, f"{title}: ±{most:.2g}", limits=(-most, most), colours="RdBu_r", point=point)


def attention_grid(
    view: View, maps: Tensor, stride: float | None, titles: Sequence[str], columns: int, point: bool = True
) -> Image.Image:
    """Distributions (n, h, w) in rows of `columns` panels."""
    figure, axes = panels(view, -(-len(maps) // columns), columns)
    for ax, weights, title in zip(axes.flat, maps, titles, strict=False):
        show_attention(ax, view, weights, stride, title, point)
    return render(figure)


def render(figure: Figure) -> Image.Image:
    """The figure as RGB."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    with Image.open(file) as image:
        return image.convert("RGB")


def view_section(view: View) -> Section:
    """The whole image with what the network saw of it, and that part alone."""
    whole = legible(view.image, least=480, most=1200)
    (width, height), (x1, y1, x2, y2) = view.image.size, view.box
    aspects = width / height, view.width / view.height
    tall = min(3.6, WIDTH / sum(aspects))
    figure = Figure(figsize=(tall * sum(aspects), tall + 0.3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=aspects)
    left.imshow(whole, extent=(0, width, height, 0))
    for x, y, w, h in (
        (0, 0, x1, height),
        (x2, 0, width - x2, height),
        (x1, 0, x2 - x1, y1),
        (x1, y2, x2 - x1, height),
    ):
        left.add_patch(Rectangle((x, y), w, h, facecolor="white", alpha=0.6, linewidth=0))
    left.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=POINT, linewidth=1.8))
    across, down = (x2 - x1) / view.width, (y2 - y1) / view.height
    mark(left, x1 + view.x * across, y1 + view.y * down)
    left.set(xlim=(0, width), ylim=(height, 0))
    left.set_title("the image", fontsize=9, pad=3)
    show(right, view, title=f"what the network saw, as {view.width} × {view.height} pixels")
    for ax in (left, right):
        ax.set_axis_off()
    caption = (
        f"The network saw x {x1:.0f} to {x2:.0f} and y {y1:.0f} to {y2:.0f} of the image's {width} × {height} pixels; "
        f"the rest was cut off. The ring is the query point, x {x1 + view.x * across:.0f}, "
        f"y {y1 + view.y * down:.0f}."
    )
    return Section("What the network saw", "", (Picture("view", render(figure), caption),))
