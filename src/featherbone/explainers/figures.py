"""Maps drawn over the picture that the network saw."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps
from torch import Tensor

from featherbone.data.images import read_image
from featherbone.draw import INK, contact_sheet, font
from featherbone.explainers.view import View

Array = np.ndarray[Any, Any]

WIDTH = 1200  # pixels per row
DPI = 100
GAP, LINE = 6, 22  # pixels between panels, and per title
FINE = 2  # a sheet is drawn at this scale and reduced
CELL = 560  # pixels of the longer side of the image and its crop
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
    beside: bool = False
    """Whether the pictures are shown side by side."""


class Panel(NamedTuple):
    """A map over the picture in grey, or the picture itself."""

    title: str
    values: Tensor | None = None  # (h, w)
    stride: float | None = None  # pixels of the network's input per position; without one the map covers the picture
    limits: tuple[float, float] = (0, 1)  # with a lower limit under 0, values near 0 are transparent
    colours: str = "magma"


def attention_panel(weights: Tensor, stride: float | None, title: str) -> Panel:
    """Weights (h, w) of a distribution, from 0 to their maximum, or to twice the uniform weight if that is more."""
    largest, uniform = weights.max().item(), 1 / weights.numel()
    return Panel(f"{title}: {largest / uniform:.1f}×", weights, stride, (0.0, max(largest, 2 * uniform)))


def signed_panel(values: Tensor, stride: float | None, title: str) -> Panel:
    """Values (h, w) of either sign, red above 0 and blue below."""
    largest = max(values.abs().max().item(), 1e-12)
    return Panel(f"{title}: ±{largest:.2g}", values, stride, (-largest, largest), "RdBu_r")


def draw_panels(
    view: View,
    panels: Sequence[Panel],
    columns: int | None = None,
    max_width: int = 360,
    point: bool = True,
) -> Image.Image:
    """Panels of the view's shape, row by row, by default as many as fit, with the query point if `point`."""
    columns = columns or columns_of(len(panels))
    wide = FINE * min(max_width, WIDTH // columns - GAP)
    scale = wide / view.width
    high, gap, line = round(view.height * scale), FINE * GAP, FINE * LINE
    rows = -(-len(panels) // columns)
    sheet = Image.new("RGB", (columns * (wide + gap) + gap, rows * (high + line + gap)), "white")
    draw, face, picture = ImageDraw.Draw(sheet), font(FINE * 12), view.picture(wide)
    for i, panel in enumerate(panels):
        left, top = gap + i % columns * (wide + gap), line + i // columns * (high + line + gap)
        sheet.paste(picture if panel.values is None else overlay(view, panel, wide), (left, top))
        draw.text((left + wide / 2, top - line / 2), panel.title, INK, face, anchor="mm")
        if point:
            mark(sheet, left + view.x * scale, top + view.y * scale)
    return sheet.reduce(FINE)


def overlay(view: View, panel: Panel, wide: int, smooth: bool = False) -> Image.Image:
    """The map of a panel over the view in grey, `wide` pixels wide."""
    assert panel.values is not None, "a panel with a map"
    scale, shown = wide / view.width, view.picture(wide).convert("L").convert("RGB")
    covered = (panel.stride * scale * side for side in panel.values.shape) if panel.stride else shown.size[::-1]
    height, width = map(round, covered)
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    above = _colour(panel).resize((width, height), how)
    shown.paste(above, mask=above)
    return shown


def outline(picture: Image.Image, region: Image.Image, view: View) -> None:
    """Draw the border of a region of the whole image, which is in mode 1, on a picture of the view."""
    mask = ImageOps.expand(region.convert("L").resize(picture.size, Image.Resampling.NEAREST, view.box), 2)
    edge = ImageChops.subtract(mask, mask.filter(ImageFilter.MinFilter(5)))
    picture.paste(POINT, mask=ImageOps.crop(edge, 2))


def _colour(panel: Panel) -> Image.Image:
    """The map of a panel in RGBA, a pixel for each position."""
    assert panel.values is not None, "a panel with a map"
    low, high = panel.limits
    values = panel.values.detach().float().cpu().numpy()
    alpha = 0.9 * np.clip(np.abs(values) / high, 0, 1) ** 0.7 if low < 0 else 0.62
    colours = matplotlib.colormaps[panel.colours]((values - low) / (high - low), alpha=alpha, bytes=True)
    return Image.fromarray(colours)


def attention_sheet(
    view: View,
    maps: Tensor,
    stride: float | None,
    titles: Iterable[str],
    columns: int | None = None,
    point: bool = True,
) -> Image.Image:
    """Distributions (n, h, w) as `attention_panel`s."""
    panels = [attention_panel(weights, stride, title) for weights, title in zip(maps, titles, strict=True)]
    return draw_panels(view, panels, columns, point=point)


def columns_of(count: int, limit: int = 8) -> int:
    """Columns of a grid of `count` panels: one row if it fits, else the largest number that leaves no gap."""
    if count <= limit:
        return count
    return next((n for n in range(limit, limit // 2, -1) if count % n == 0), limit)


def mark(picture: Image.Image, x: float, y: float) -> None:
    """Draw the query point as a ring, on a picture that is reduced to a `FINE`th."""
    draw, radius = ImageDraw.Draw(picture), 4.5 * FINE
    for colour, width in (("black", 2 * FINE), (POINT, FINE)):
        draw.circle((x, y), radius + width / 2, outline=colour, width=width)


def render(figure: Figure) -> Image.Image:
    """The figure as RGB."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return read_image(file.getvalue())


def view_section(view: View) -> Section:
    """The whole image with the network's crop, and the crop by itself."""
    (width, height), (x1, y1, x2, y2) = view.image.size, view.box
    x, y = x1 + view.x / view.width * (x2 - x1), y1 + view.y / view.height * (y2 - y1)
    scale = FINE * CELL / max(width, height)
    shown = view.image.resize((max(round(width * scale), 1), max(round(height * scale), 1)))
    left, top, right, bottom = (round(side * scale) for side in view.box)
    whole = Image.blend(shown, Image.new("RGB", shown.size, "white"), 0.6)
    whole.paste(shown.crop((left, top, right, bottom)), (left, top))
    ImageDraw.Draw(whole).rectangle((left, top, right - 1, bottom - 1), outline=POINT, width=2 * FINE)
    mark(whole, x * scale, y * scale)
    scale = FINE * CELL / max(view.width, view.height)
    part = view.picture(max(round(view.width * scale), 1))
    mark(part, view.x * scale, view.y * scale)
    captions = ("the image", f"what the network saw, as {view.width} × {view.height} pixels")
    drawn = contact_sheet([whole, part], captions, columns=2, cell=CELL)
    part_seen = f"x {x1:.0f} to {x2:.0f} and y {y1:.0f} to {y2:.0f} of the image's {width} × {height} pixels"
    seen = f"the whole image of {width} × {height} pixels"
    caption = (
        f"The network saw {seen if view.is_whole else f'{part_seen}; the rest was cropped'}. The ring is the query "
        f"point, x {x:.0f}, y {y:.0f}."
    )
    text = (
        "Below, each position of a map is drawn as a cell of the picture as wide as the stride of the map; the "
        "receptive field of a position is larger."
    )
    return Section("What the network saw", text, (Picture("view", drawn, caption),))
