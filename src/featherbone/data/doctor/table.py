"""The table that the checks read: a row per image with what is kept of its pixels, and columns of all objects."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featherbone.data.doctor.drawing import draw_map, draw_objects, to_jpeg
from featherbone.data.doctor.duplicates import ImageHash
from featherbone.data.findings import MAX_EXAMPLES, Example, Finding, Severity, grade, share
from featherbone.data.images import read_image
from featherbone.data.layouts import TRAINING_SPLITS
from featherbone.data.split import Split
from featherbone.errors import BadData, BadImage
from featherbone.ops import rle
from featherbone.ops.label_maps import IGNORE

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Truth = Literal["labels", "objects", "values", "segments", "other"]
"""Kind of the annotations: a class per image, objects, maps of class values, maps of segments, or unknown."""

MAX_DRAWN = 1000
"""Maximum number of objects drawn on the picture of a whole image."""
THUMBNAIL = 128


@dataclass(frozen=True, slots=True)
class Picture:
    """What is kept of a readable image."""

    size: tuple[int, int]
    """Width and height of the upright image."""
    kind: str
    """How its pixels are stored: a key of `image_checks.KINDS`, or `colour`."""
    orientation: int
    """EXIF orientation, 1 to 8: 1 is upright, from 5 on width and height are exchanged."""
    hash: ImageHash


class Segment(NamedTuple):
    """One segment that the file of a panoptic map states."""

    id: int
    label: int
    crowd: bool
    stated: Mapping[str, Any]
    """The rest of what the file states."""
    area: int
    """Pixels on the map; 0 where the map does not contain it."""
    box: tuple[int, int, int, int]
    """x y width height on the map."""


@dataclass(frozen=True)
class MapFacts:
    """What is kept of the map of one image."""

    fault: str = ""
    """Why it cannot be read, or ""."""
    values: frozenset[int] = frozenset()
    unknown: Mapping[int, int] = field(default_factory=dict)
    """Pixels of each value that is neither a class nor a segment."""
    classes: Mapping[int, int] = field(default_factory=dict)
    """Pixels of each class; `IGNORE` and -1 for unlabelled pixels."""
    coloured: bool = False
    blur: float = 0.0
    """Share of the changes from pixel to pixel that pass through a value between two others."""
    segments: tuple[Segment, ...] = ()

    @property
    def void(self) -> float:
        """Share of unlabelled pixels."""
        return sum(self.classes.get(label, 0) for label in (-1, IGNORE)) / max(sum(self.classes.values()), 1)


@dataclass(frozen=True, eq=False)
class ImageRow:
    """One image of a data set. Where pixels were not read, `picture` is None and `error` and `map` are empty."""

    source: Split[Any]
    index: int
    """Index in the split `source`."""
    split: str
    name: str
    picture: Picture | None = None
    error: str = ""
    """Why the image cannot be read, or ""."""
    stated_size: tuple[int, int] | None = None
    """Width and height by its annotations or its map."""
    label: int = -1
    faults: tuple[str, ...] = ()
    """Why annotations cannot be read; these are not among the objects."""
    map: MapFacts = MapFacts()

    @property
    def usable(self) -> bool:
        """Whether nothing is known that prevents training on it."""
        fits = self.picture is None or self.stated_size in (None, self.picture.size)
        return fits and not self.error and not self.map.fault

    def example(self, note: str = "") -> Example:
        """The image as an example of a finding."""
        return Example((self.name,), note)


@dataclass(frozen=True, eq=False)
class ObjectColumns:
    """The N objects of all images, as their files state them."""

    image: Ints  # row of the image (N,)
    place: Ints  # index among the readable annotations of the image (N,)
    labels: Ints  # classes (N,); -1 for an unknown class
    boxes: Floats  # x1 y1 x2 y2 in pixels of the image (N, 4), not clipped
    limits: Floats  # annotated width and height of the image (N, 2)
    crowd: Bools  # (N,)
    areas: Floats  # stated areas (N,), NaN where there is none
    ids: tuple[Any, ...]  # numbers of the annotations (N,), None where the file has none
    category_ids: tuple[int, ...]  # numbers of the classes (N,) in the file
    segmentations: tuple[Any, ...]  # masks (N,) in COCO's form, not decoded; None where there is none
    # of the masks, for instance segmentation only:
    mask_faults: tuple[str, ...]  # why each cannot be read (N,), or ""
    mask_boxes: Floats  # x1 y1 x2 y2 around its pixels (N, 4), NaN without a readable mask
    mask_areas: Floats  # its pixels (N,), NaN without a readable mask
    mask_beyond: Floats  # pixels by which a polygon exceeds the image (N,)

    def __len__(self) -> int:
        return len(self.image)

    @cached_property
    def sides(self) -> Floats:
        """Width and height of the boxes (N, 2)."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    @cached_property
    def clear(self) -> Bools:
        """Objects that are trained on (N,): not a crowd, with a box that is not empty within the image."""
        return ~self.crowd & (np.minimum(self.boxes[:, 2:], self.limits) > self.boxes[:, :2].clip(0)).all(1)

    @cached_property
    def input_sides(self) -> Floats:
        """Smaller side of each box, clipped to the image, over the longer side of the image (N,)."""
        cut = np.minimum(self.boxes[:, 2:], self.limits) - self.boxes[:, :2].clip(0)
        return cut.min(1) / self.limits.max(1)  # what `frames.fit` makes of it, but for rounding


@dataclass(frozen=True, eq=False)
class Table:
    """All that the checks know of a data set."""

    task: str
    truth: Truth
    input_size: int
    """Height and width of the network's input in pixels."""
    classes: tuple[str, ...]
    class_ids: Mapping[str, Mapping[int, str]]
    """By split, its class names by their ids in the files."""
    images: tuple[ImageRow, ...]
    objects: ObjectColumns
    read_map: Callable[[Any, int], tuple[NDArray[Any], NDArray[Any]]] | None = None
    """Values and palette indices (H, W) of the map of an image of a split."""

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def splits(self) -> NDArray[np.str_]:
        """Name of each image's split (I,)."""
        return np.array([image.split for image in self.images], str)

    @cached_property
    def object_splits(self) -> NDArray[np.str_]:
        """Name of each object's split (N,)."""
        return self.splits[self.objects.image]

    @cached_property
    def readable(self) -> dict[ImageRow, Picture]:
        """The images that can be read with their maps."""
        return {image: image.picture for image in self.images if image.picture and not image.map.fault}

    @cached_property
    def counts(self) -> dict[str, Ints]:
        """By split, the usable images that have each class, or the objects of each class (K,)."""
        if self.truth == "objects":
            known = self.objects.clear & (self.objects.labels >= 0)
            labels, splits = self.objects.labels[known], self.object_splits[known]
        else:
            images = self.images if self.truth == "labels" else self.readable
            shown = [(k, one) for one in images for k in ((one.label,) if self.truth == "labels" else one.map.classes)]
            pairs = [(k, one.split) for k, one in shown if 0 <= k < len(self.classes) and not one.error]
            labels, splits = np.array([k for k, _ in pairs], np.int64), np.array([split for _, split in pairs], str)
        size = len(self.classes)
        return {split: np.bincount(labels[splits == split], minlength=size) for split in TRAINING_SPLITS}

    def object_name(self, row: int) -> str:
        """Name of an object in notes."""
        number, label = self.objects.ids[row], int(self.objects.labels[row])
        number = f"object {self.objects.place[row] + 1}" if number is None else f"annotation {number}"
        return f"{number}, {self.classes[label] if label >= 0 else 'class unknown'}"

    def describe(self, row: int) -> str:
        """An object and its box in notes."""
        (x, y), (width, height) = self.objects.boxes[row, :2].tolist(), self.objects.sides[row].tolist()
        return f"{self.object_name(row)}: {width:.4g} x {height:.4g} px at {x:.4g}, {y:.4g}"

    def report(
        self,
        severity: Severity | float,
        code: str,
        which: Bools | Ints,
        text: str,
        thing: str = "",
        total: int | None = None,
        note: Callable[..., str] | None = None,
        masks: bool = False,
    ) -> Iterator[Finding]:
        """A finding about objects, a mask (N,) or rows (n,), or about pairs of rows (n, 2), if there are any.

        Severity and message are those of `findings.report`; without a `thing` the message is `text`. The first object
        in each image is an example with a picture, its `masks` drawn on request, and a caption by `note(*rows)`.
        """
        rows = np.flatnonzero(which) if which.dtype == bool else which
        if not len(rows):
            return
        rows, note, count = rows.reshape(len(rows), -1), note or self.describe, len(rows)
        total = len(self.objects) if total is None else total
        severity = severity if isinstance(severity, str) else grade(count, total, severity)
        images, first, times = np.unique(self.objects.image[rows[:, 0]], return_index=True, return_counts=True)
        examples = []
        for at in range(min(len(images), MAX_EXAMPLES)):
            image, objects = self.images[images[at]], rows[first[at]].tolist()
            more = f"; {times[at] - 1:,} more in this image" if times[at] > 1 else ""
            pictures = (self.draw(image, objects, masks),) if image.picture or image.error else ()
            examples.append(Example((image.name,), note(*objects) + more, pictures))
        message = f"{share(count, thing, total)} {text}" if thing else text
        yield Finding(severity, code, message, count, tuple(examples))

    def draw(
        self, image: ImageRow, objects: Sequence[int] | None = None, masks: bool = False, values: Sequence[int] = ()
    ) -> bytes:
        """A small JPEG file of an image with its annotations, empty where it cannot be read.

        With `objects`, only the part around these is shown, with their `masks` on request; with `values`, the pixels
        of the map that have them.
        """
        try:
            picture = read_image(image.source.encoded(image.index), image.name)
            if self.read_map:
                stored, colours = self.read_map(image.source, image.index)
                return to_jpeg(draw_map(picture, colours, np.isin(stored, values) if values else None))
        except (BadData, BadImage, OSError):
            return b""
        if self.truth == "objects":
            row = self.images.index(image) if objects is None else 0
            shown = np.flatnonzero(self.objects.image == row)[:MAX_DRAWN].tolist() if objects is None else objects
            drawn = [mask for i in shown if masks and (mask := self._mask(image, i)) is not None]
            return to_jpeg(draw_objects(picture, self.objects.boxes[shown], drawn, whole=objects is None))
        picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        return to_jpeg(picture)

    def _mask(self, image: ImageRow, row: int) -> Bools | None:
        """The mask of an object, None where there is none that fits the image."""
        if np.isnan(self.objects.mask_areas[row]) or not image.usable or image.stated_size is None:
            return None  # the stated size may be of any number of pixels
        width, height = image.stated_size
        return rle.decode(rle.from_coco(self.objects.segmentations[row], height, width))
