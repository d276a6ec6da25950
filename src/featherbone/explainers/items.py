"""What the items of a prediction depended on: the record of one image, and a map for each of the chosen items."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from featherbone.data.bands import AnyImage
from featherbone.data.transforms import Preprocessing
from featherbone.draw import draw_record
from featherbone.errors import BadOption
from featherbone.explainers.cam import evidence, link
from featherbone.explainers.figures import Panel, Picture, Section, outline, overlay
from featherbone.explainers.view import View
from featherbone.results import Record
from featherbone.tasks.kind import Item, Kind

SIDE = 560
"""Width of the picture of an item in pixels."""
MAX_NAMED = 20
"""Items that the page and messages list."""


@dataclass(frozen=True)
class ItemMap:
    """An item of a record, and where its map was written."""

    number: int
    """Place in the record, from 1."""
    item: Item
    picture: Path | None
    """None where no feature map has a part in it, such as with a classifier that reads only a class token."""

    def to_json(self) -> dict[str, Any]:
        item = self.item
        values = {"item": self.number, "name": item.name, "score": item.score, "share": item.share}
        return {**values, "picture": self.picture and str(self.picture)}

    def __str__(self) -> str:
        return f"{self.number:3} {describe(self.item)}"


def describe(item: Item) -> str:
    """The name of an item and its score, or the part of the image that it covers."""
    return f"{item.name} {item.score:.1%}" if item.score is not None else f"{item.name}, {item.share:.1%} of the image"


def explain_items(
    task: Any,
    kind: Kind,
    preprocessing: Preprocessing,
    score: float | None,
    own: AnyImage,
    x: Tensor,
    view: View,
    chosen: Sequence[str],
) -> tuple[Record, list[Item], dict[int, Picture | None], Section | None]:
    """The record of an image `own` with the input `x`, its items, pictures of the chosen ones, and a section of these.

    Raises `BadOption` for an item that the record lacks.
    """
    linked = link(task, x)
    record, items = kind.items(task.decoder, linked.raw, preprocessing.frame(own.height, own.width), score)
    pictures: dict[int, Picture | None] = {}
    for number in choose(items, chosen, kind.num_explained):
        item = items[number - 1]
        found = evidence(linked, item.value(), x)
        pictures[number] = None if found is None else draw_item(number, item, view, *found)
    shown = [picture for picture in pictures.values() if picture is not None]
    if items and not shown:
        return record, items, pictures, None
    drawn = Picture("prediction", draw_record(view.image, record, score or 0.0), "The prediction.")
    above = "" if score is None else f" above a score of {score:.2f}; pass a lower --score to see more"
    text = (
        f"Bright places raised {kind.explained}: HiResCAM (arXiv 2011.08891), the product of the backbone's feature "
        "maps and the gradient, summed over channels and levels; negative sums are set to 0. It shows where, not why."
        if items
        else f"There is nothing to explain: nothing was found in this image{above}."
    )
    return record, items, pictures, Section("What the prediction depended on", text, (drawn, *shown), beside=True)


def draw_item(number: int, item: Item, view: View, values: Tensor, stride: float | None) -> Picture:
    """The map (h, w) of an item over the picture, with the outline of the item's region."""
    panel = Panel("", values, stride, (0.0, max(values.max().item(), 1e-12)))
    drawn = overlay(view, panel, SIDE, smooth=True)
    if item.region is not None:
        outline(drawn, Image.fromarray(item.region()), view)
    height, width = values.shape
    nothing = "" if values.any() else " No position raises it."
    return Picture(f"item-{number}", drawn, f"{number}. {describe(item)}. {height} × {width} positions.{nothing}")


def choose(items: Sequence[Item], given: Sequence[str], default: int) -> list[int]:
    """Numbers of the items that are named, by number or class, or of the first ones. Raises `BadOption`."""
    if not given:
        return list(range(1, min(len(items), default) + 1))
    numbers: list[int] = []
    for word in given:
        found = [i for i, item in enumerate(items, 1) if word in (str(i), item.name)]
        if not found:
            listed = "; ".join(f"{i} {describe(item)}" for i, item in enumerate(items[:MAX_NAMED], 1))
            more = f" and {len(items) - MAX_NAMED} more" if len(items) > MAX_NAMED else ""
            raise BadOption(
                f"item {word!r} is not in the prediction, which has {len(items)}"
                + (f": {listed}{more}; give a number or a name" if items else ": nothing was found; pass a lower score")
            )
        numbers += found
    return list(dict.fromkeys(numbers))
