"""Maps drawn over the picture that the network saw."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from featherbone.data.images import read_image
from featherbone.draw import legible
from featherbone.explainers.view import View

Array = np.ndarray[Any, Any]

WIDTH = 1200  # pixels per row
DPI = 100
GAP, LINE = 6, 22  # pixels between panels, and per title
POINT = "#00e5ff"
HOW_TO_READ = (
    "Colours run from 0 (dark) to the maximum of each map, or to twice the uniform weight if that is more; the number "
    "is the maximum as a multiple of the uniform weight."
)
"""Explains the colours of `attention_sheet`."""


@dataclass(frozen=True)
class Picture:
    """A picture with a file name (without its suffix) and a caption."""

    name: str
    image: Image.Image
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading of the page, an explanation, and pictures."""

    title: str
    text: str
    pictures: tuple[Picture, ...]


class Sheet:
    """Panels of the view's shape, filled row by row, each up to `max_width` pixels wide.

    All share one set of axes in pixels of the sheet, which is several times faster than axes for each panel.
    """

    def __init__(self, view: View, count: int, columns: int, max_width: int = 360) -> None:
        self.view, self.columns = view, columns
        self.wide = min(max_width, WIDTH // columns - GAP)
        self.scale = self.wide / view.width  # pixels of the sheet per pixel of the network's input
        self.high = round(view.height * self.scale)
        size = columns * (self.wide + GAP) + GAP, -(-count // columns) * (self.high + LINE + GAP)
        self.figure = Figure(figsize=(size[0] / DPI, size[1] / DPI))
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(size[1], 0))
        self.axes.set_axis_off()
        self.left, self.top, self.filled = 0, 0, 0
        self.grey = view.picture(2 * self.wide).convert("L")

    def show(
        self,
        values: Tensor | None = None,
        stride: float | None = None,
        title: str = "",
        *,
        limits: tuple[float, float] = (0, 1),
        colours: str = "magma",
        smooth: bool = False,
        point: bool = True,
    ) -> None:
        """Fill the next panel with a map (h, w) over the picture in grey, or with the picture, and the query point.

        A position of the map covers `stride` pixels of the input; without a stride the map covers the picture. If the
        lower limit is negative, values near 0 are transparent.
        """
        row, column = divmod(self.filled, self.columns)
        self.left, self.top = GAP + column * (self.wide + GAP), LINE + row * (self.high + LINE + GAP)
        self.filled += 1
        if values is None:
            self._draw(np.asarray(self.view.picture(2 * self.wide)), self.wide, self.high)
        else:
            self._draw(np.asarray(self.grey), self.wide, self.high, cmap="gray", vmin=0, vmax=255)
            array = values.detach().float().cpu().numpy()
            high, wide = (self.high, self.wide) if stride is None else (n * stride * self.scale for n in array.shape)
            signed = limits[0] < 0
            alpha = 0.9 * np.clip(np.abs(array) / limits[1], 0, 1) ** 0.7 if signed else 0.62
            look: dict[str, Any] = dict(cmap=colours, vmin=limits[0], vmax=limits[1], alpha=alpha)
            self._draw(array, wide, high, interpolation="bilinear" if smooth else "nearest", **look)
        self.axes.text(
            self.left + self.wide / 2, self.top - 0.5 * LINE, title, fontsize=8.5, ha="center", va="center_baseline"
        )
        if point:
            mark(self.axes, *self.place(np.array([self.view.x, self.view.y])))

    def _draw(self, array: Array, width: float, height: float, **look: Any) -> None:
        extent = (self.left, self.left + width, self.top + height, self.top)
        self.clip(self.axes.imshow(array, extent=extent, aspect="auto", **look))

    def clip(self, *drawn: Artist) -> None:
        """Clip what was drawn to the panel filled last."""
        for artist in drawn:
            artist.set_clip_path(Rectangle((self.left, self.top), self.wide, self.high, transform=self.axes.transData))

    def place(self, points: Array) -> Array:
        """Points (..., 2), x and y in pixels of the network's input, on the panel filled last."""
        return points * self.scale + (self.left, self.top)

    def show_attention(self, weights: Tensor, stride: float | None, title: str, point: bool = True) -> None:
        """Weights (h, w) of a distribution, from 0 to their maximum, or to twice the uniform weight if that is more."""
        largest, uniform = weights.max().item(), 1 / weights.numel()
        self.show(
            weights, stride, f"{title}: {largest / uniform:.1f}×", limits=(0.0, max(largest, 2 * uniform)), point=point
        )

    def show_signed(self, values: Tensor, stride: float | None, title: str) -> None:
        """Values (h, w) of either sign, red above 0 and blue below."""
        largest = max(values.abs().max().item(), 1e-12)
        self.show(values, stride, f"{title}: ±{largest:.2g}", limits=(-largest, largest), colours="RdBu_r")

    def image(self) -> Image.Image:
        """The sheet as RGB."""
        return render(self.figure)


def attention_sheet(
    view: View,
    maps: Tensor,
    stride: float | None,
    titles: Iterable[str],
    columns: int | None = None,
    point: bool = True,
) -> Image.Image:
    """Distributions (n, h, w) in rows of `columns` panels, by default as many as fit."""
    sheet = Sheet(view, len(maps), columns or columns_of(len(maps)))
    for weights, title in zip(maps, titles, strict=True):
        sheet.show_attention(weights, stride, title, point)
    return sheet.image()


def columns_of(count: int, limit: int = 8) -> int:
    """Columns of a grid of `count` panels: one row if it fits, else the largest number that leaves no gap."""
    if count <= limit:
        return count
    return next((n for n in range(limit, limit // 2, -1) if count % n == 0), limit)


def mark(axes: Axes, x: float, y: float) -> None:
    """The query point as a ring."""
    for colour, width in (("black", 2.8), (POINT, 1.4)):
        axes.plot(x, y, "o", markersize=6.5, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=width)


def render(figure: Figure) -> Image.Image:
    """The figure as RGB."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return read_image(file.getvalue())


def view_section(view: View) -> Section:
    """The whole image with the network's crop, and the crop by itself."""
    (width, height), (x1, y1, x2, y2) = view.image.size, view.box
    x, y = x1 + view.x / view.width * (x2 - x1), y1 + view.y / view.height * (y2 - y1)
    aspects = width / height, view.width / view.height
    tall = min(3.6, WIDTH / DPI / sum(aspects))
    figure = Figure(figsize=(tall * sum(aspects) + 0.1, tall + 0.25), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=aspects)
    left.imshow(legible(view.image, min_width=480), extent=(0, width, height, 0))
    hidden = ((0, 0, x1, height), (x2, 0, width - x2, height), (x1, 0, x2 - x1, y1), (x1, y2, x2 - x1, height - y2))
    for corner_x, corner_y, wide, high in hidden:
        left.add_patch(Rectangle((corner_x, corner_y), wide, high, facecolor="white", alpha=0.6, linewidth=0))
    left.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=POINT, linewidth=1.8))
    left.set_title("the image", fontsize=9, pad=3)
    right.imshow(view.picture(480), extent=(0, view.width, view.height, 0))
    right.set_title(f"what the network saw, as {view.width} × {view.height} pixels", fontsize=9, pad=3)
    for ax, mark_x, mark_y in ((left, x, y), (right, view.x, view.y)):
        ax.set_axis_off()
        mark(ax, mark_x, mark_y)
    caption = (
        f"The network saw x {x1:.0f} to {x2:.0f} and y {y1:.0f} to {y2:.0f} of the image's {width} × {height} pixels; "
        f"the rest was cropped. The ring is the query point, x {x:.0f}, y {y:.0f}."
    )
    text = (
        "Below, each position of a map is drawn as a cell of the picture as wide as the stride of the map; the "
        "receptive field of a position is larger."
    )
    return Section("What the network saw", text, (Picture("view", render(figure), caption),))
