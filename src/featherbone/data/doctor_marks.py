"""Every object marked in a data set, one a row, and pictures of those that a finding concerns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval.core import mask as coco
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from featherbone.data.findings import MAX_EXAMPLES, Example, Finding, Picture, Severity, look_at, to_jpeg
from featherbone.data.images import read_image
from featherbone.data.layouts import TRAINING_SPLITS
from featherbone.data.objects import Objects, ObjectSplit
from featherbone.data.scan import look_at_each
from featherbone.errors import BadImage
from featherbone.ops import rle

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST_DRAWN = 1000
"""Objects drawn on a picture of a whole image."""
_SIDE = 220
_GREY, _RED, _ORANGE, _BLUE = (128, 128, 128), (235, 40, 40), (255, 165, 0), (40, 110, 255)


class MaskFacts(NamedTuple):
    """What is kept of the masks of n objects; NaN where there is none."""

    boxes: Floats
    """x1 y1 x2 y2 around the pixels covered (n, 4)."""
    areas: Floats
    """Pixels covered (n,)."""
    beyond: Floats
    """Pixels by which a polygon leaves the image (n,)."""
    faults: NDArray[np.object_]
    """Why a mask cannot be read, or "" (n,)."""


@dataclass(frozen=True, eq=False)
class Marks:
    """The images of both splits, one after another, and all that is marked on them: N objects."""

    root: Path
    classes: tuple[str, ...]
    entries: tuple[Objects, ...]
    splits: NDArray[np.str_]
    """Of each image."""
    looks: tuple[Picture | str, ...]
    """Of each image its picture, or why it cannot be read; none where images were not read."""
    image: Ints
    """Which image it is marked on (N,)."""
    place: Ints
    """Where among that image's annotations (N,)."""
    labels: Ints
    """Classes (N,); -1 where it is not known."""
    boxes: Floats
    """x1 y1 x2 y2 in pixels of the image, as stated (N, 4)."""
    limits: Floats
    """Width and height of its image, as annotated (N, 2)."""
    crowd: NDArray[np.bool_]
    areas: Floats
    """As stated, NaN where not (N,)."""
    masks: MaskFacts
    errors: tuple[tuple[str, ...], ...] = ()
    """Of each image why annotations cannot be read; they are not among the N objects."""

    @property
    def names(self) -> list[str]:
        """What messages call the images."""
        return [entry.path for entry in self.entries]

    @property
    def sides(self) -> Floats:
        """Width and height of the boxes (N, 2)."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    @property
    def clear(self) -> NDArray[np.bool_]:
        """Objects to learn (N,): no crowd, with a box that is not empty within its image."""
        low, high = self.boxes[:, :2].clip(0), np.minimum(self.boxes[:, 2:], self.limits)
        return ~self.crowd & (high > low).all(1)

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Images (I,) that can be read and have the annotated size; all where images were not read."""
        if not self.looks:
            return np.ones(len(self.entries), bool)
        pairs = zip(self.entries, self.looks, strict=True)
        usable = [isinstance(look, Picture) and (look.height, look.width) == (e.height, e.width) for e, look in pairs]
        return np.array(usable, bool)

    def entry(self, row: int) -> tuple[Objects, int]:
        """The objects of the image, and the object's place among them."""
        return self.entries[self.image[row]], int(self.place[row])

    def number(self, row: int) -> Any:
        """Its number in the file; None where it has none."""
        entry, place = self.entry(row)
        return entry.ids[place] if entry.ids else None

    def segmentation(self, row: int) -> Any:
        """Its mask in COCO's form, not decoded; None where it has none."""
        entry, place = self.entry(row)
        return entry.segmentations[place]

    def called(self, row: int) -> str:
        """The object in a note."""
        found, label = self.number(row), int(self.labels[row])
        number = f"object {self.place[row] + 1}" if found is None else f"annotation {found}"
        return f"{number}, {self.classes[label] if label >= 0 else 'class unknown'}"

    def measured(self, row: int) -> str:
        """The object and its box in a note."""
        x, y = self.boxes[row, :2].tolist()
        width, height = self.sides[row].tolist()
        return f"{self.called(row)}: {width:.4g} x {height:.4g} px at {x:.4g}, {y:.4g}"

    def point(
        self,
        severity: Severity,
        code: str,
        message: str,
        rows: Ints,
        note: Callable[..., str] | None = None,
        masks: bool = False,
    ) -> Finding:
        """A finding about objects (n,) or pairs of them (n, 2), with a picture of the first in each image.

        `note` makes the text under it from the rows of the object or the two; `masks` are drawn on request.
        """
        rows, note = rows.reshape(len(rows), -1), note or self.measured
        _, first, counts = np.unique(self.image[rows[:, 0]], return_index=True, return_counts=True)
        examples: list[Example] = []
        for at, count in zip(first[:MAX_EXAMPLES].tolist(), counts.tolist(), strict=False):
            spot = rows[at].tolist()
            name = self.entries[self.image[spot[0]]].path
            more = f"; {count - 1:,} more in this image" if count > 1 else ""
            pictures = (self.draw(int(self.image[spot[0]]), spot, masks),) if self.looks else ()
            examples.append(Example((name,), note(*spot) + more, pictures))
        return Finding(severity, code, message, len(rows), tuple(examples))

    def draw(self, image: int, rows: Sequence[int] | None = None, masks: bool = False) -> bytes:
        """A small JPEG file of an image: around the objects of `rows`, or the whole with all; empty if unreadable."""
        entry = self.entries[image]
        try:
            picture = read_image(self.root / entry.path, entry.path)
        except BadImage:
            return b""
        shown = np.flatnonzero(self.image == image)[:MOST_DRAWN].tolist() if rows is None else rows
        boxes = self.boxes[shown]
        found = [mask for row in shown if (mask := self._mask(row)) is not None] if masks else []
        return to_jpeg(draw_marks(picture, boxes, found, whole=rows is None))

    def _mask(self, row: int) -> NDArray[np.bool_] | None:
        entry, look = self.entries[self.image[row]], self.looks[self.image[row]]
        if self.masks.faults[row] or np.isnan(self.masks.areas[row]):
            return None
        if isinstance(look, str) or (look.height, look.width) != (entry.height, entry.width):
            return None  # the stated size may be of any number of pixels
        return rle.decode(rle.from_coco(self.segmentation(row), entry.height, entry.width))


def gather(splits: Mapping[str, ObjectSplit], masks: bool = False, pictures: bool = True) -> Marks:
    """All objects of the splits; classes are joined by name. Images are read unless told not to, and masks if so."""
    classes = tuple(dict.fromkeys(name for images in splits.values() for name in images.classes))
    entries = tuple(entry for images in splits.values() for entry in images.entries)
    looks: list[Picture | str] = []
    facts: list[MaskFacts] = []
    labels: list[int] = []
    for split, images in splits.items():

        def look(index: int, images: ObjectSplit = images) -> tuple[Picture | str, MaskFacts]:
            return look_at(images, index), _mask_facts(images.entries[index], masks)

        for picture, fact in look_at_each(images, look, f"examining {split}") if pictures else ():
            looks.append(picture)
            facts.append(fact)
        places = [classes.index(name) for name in images.classes] + [-1]
        labels += [places[label] for entry in images.entries for label in entry.labels.tolist()]
    counts = np.array([len(entry) for entry in entries], np.int64)
    image = np.repeat(np.arange(len(entries)), counts)
    given = np.concatenate([np.empty((0, 4)), *(entry.boxes_xywh for entry in entries)])
    sizes = np.array([(entry.width, entry.height) for entry in entries], np.float64).reshape(-1, 2)
    return Marks(
        root=next((images.root for images in splits.values()), Path()),
        classes=classes,
        entries=entries,
        splits=np.repeat(
            np.array(list(splits) or list(TRAINING_SPLITS))[: len(splits)], [len(i) for i in splits.values()]
        ),
        looks=tuple(looks),
        image=image,
        place=np.arange(len(image)) - np.repeat(np.cumsum(counts) - counts, counts),
        labels=np.array(labels, np.int64),
        boxes=np.column_stack([given[:, :2], given[:, :2] + given[:, 2:]]),
        limits=sizes[image],
        crowd=np.concatenate([np.zeros(0, bool), *(entry.crowd for entry in entries)]),
        areas=np.concatenate([np.zeros(0), *(entry.stated_areas for entry in entries)]),
        masks=MaskFacts(*map(np.concatenate, zip(*facts, strict=True))) if facts else _mask_facts(None, False),
        errors=tuple(entry.errors for entry in entries),
    )


def _mask_facts(entry: Objects | None, masks: bool) -> MaskFacts:
    count = len(entry) if entry else 0
    facts = MaskFacts(
        np.full((count, 4), np.nan), np.full(count, np.nan), np.zeros(count), np.full(count, "", dtype=object)
    )
    for i, segmentation in enumerate(entry.segmentations if entry and masks else ()):
        if entry is None or segmentation is None:
            continue
        facts.faults[i] = rle.fault(segmentation, entry.height, entry.width)
        if facts.faults[i]:
            continue
        mask = rle.from_coco(segmentation, entry.height, entry.width)
        x, y, width, height = np.asarray(coco.toBbox([mask]), np.float64).reshape(4)
        facts.boxes[i], facts.areas[i] = (x, y, x + width, y + height), rle.areas([mask])[0]
        if isinstance(segmentation, list):
            points = np.concatenate([np.asarray(p, np.float64).reshape(-1, 2) for p in segmentation])
            facts.beyond[i] = max((-points).max(), (points - (entry.width, entry.height)).max(), 0)
    return facts


def draw_marks(
    image: Image.Image, boxes: Floats, masks: Sequence[NDArray[np.bool_]] = (), whole: bool = False
) -> Image.Image:
    """The part of an image around `boxes` (n, 4), or the whole, with boxes in red and orange and masks in blue.

    What lies beyond the image is grey. The longer side is 220 pixels.
    """
    left, top, right, bottom = _region(image, boxes, whole)
    width, height = right - left, bottom - top
    scale = _SIDE / max(width, height)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    part = Image.new("RGB", (width, height), _GREY)
    part.paste(image, (-left, -top))
    part = part.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    for mask in masks:
        cut = Image.fromarray(mask.astype(np.uint8) * 255).crop((left, top, right, bottom)).resize(size)
        inside = np.pad(np.asarray(cut) > 127, 2)
        middle = inside[2:-2, 2:-2]
        core = inside[4:, 2:-2] & inside[:-4, 2:-2] & inside[2:-2, 4:] & inside[2:-2, :-4]
        part.paste(_BLUE, mask=Image.fromarray(np.where(middle & ~core, 255, middle * 70).astype(np.uint8)))
    pen = ImageDraw.Draw(part)
    ends = np.array([size[0] - 1, size[1] - 1] * 2)
    for i, box in reversed(list(enumerate(np.nan_to_num(boxes)))):
        x1, y1, x2, y2 = ((box - (left, top, left, top)) * scale).clip(0, ends).tolist()
        x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
        colour = _RED if whole or i == 0 else _ORANGE
        pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="black", width=4)
        pen.rectangle((x1, y1, x2, y2), outline=colour, width=2)
    return part


def _region(image: Image.Image, boxes: Floats, whole: bool) -> tuple[int, int, int, int]:
    """The boxes with as much again on every side, at least 48 pixels wide and high, or the image and a quarter more."""
    edge = np.array([0, 0, image.width, image.height], np.float64)
    around = np.array([image.width, image.height, image.width, image.height]) / 4
    most = edge + around * (-1, -1, 1, 1)
    if not len(boxes):
        return 0, 0, image.width, image.height
    boxes = np.nan_to_num(boxes)
    region = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])
    if whole:
        region = np.concatenate([np.minimum(region, edge)[:2], np.maximum(region, edge)[2:]])
    else:
        room = max(float((region[2:] - region[:2]).max()) / 2, 24)
        region = region + np.array([-room, -room, room, room])
    region = region.clip(most[[0, 1, 0, 1]], most[[2, 3, 2, 3]])
    left, top, right, bottom = np.rint(region).astype(int).tolist()
    return left, top, max(right, left + 1), max(bottom, top + 1)
