"""The table that the checks read: a row per image with what is kept of its pixels, and columns of all objects.

Each image, annotation and map is read once.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
from faster_coco_eval.core import mask as coco
from numpy.typing import NDArray
from PIL import Image, ImageFile

from featherbone.data.bands import read_input, to_picture
from featherbone.data.doctor.drawing import draw_map, draw_objects, to_jpeg
from featherbone.data.doctor.duplicates import ImageHash, hash_image
from featherbone.data.findings import MAX_EXAMPLES, Example, Finding, Severity, report
from featherbone.data.formats.class_folders import LabelSplit
from featherbone.data.formats.label_lists import LabelListSplit
from featherbone.data.formats.masks import MaskSplit
from featherbone.data.formats.panoptic import PanopticSplit
from featherbone.data.images import WHITES, is_array, is_deep, open_image, orientation_of, white_of
from featherbone.data.layouts import TRAINING_SPLITS
from featherbone.data.object_split import ObjectSplit
from featherbone.data.object_table import ObjectTable
from featherbone.data.objects import parse_json
from featherbone.data.split import PanopticSegment, Split
from featherbone.errors import BadData, BadImage
from featherbone.ops import rle
from featherbone.ops.label_maps import IGNORE
from featherbone.progress import track

T = TypeVar("T")
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Values = NDArray[np.integer]
Truth = Literal["labels", "lists", "objects", "values", "segments", "other"]
"""Kind of the annotations: a class per image, any number of classes, objects, maps of class values or of segments, or
unknown."""
TRUTHS: dict[Any, Truth] = {
    LabelSplit: "labels",
    LabelListSplit: "lists",
    ObjectSplit: "objects",
    MaskSplit: "values",
    PanopticSplit: "segments",
}

MAX_DRAWN = 1000
"""Maximum number of objects drawn on the picture of a whole image."""
THUMBNAIL = 128
UNKNOWN = 1000
"""Side in pixels for which an image of unknown size is taken by the checks that read no image."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What is kept of a readable image."""

    size: tuple[int, int]  # width and height of the upright image
    kind: str  # how its pixels are stored: a key of `image_checks.KINDS`, or `colour`
    orientation: int  # EXIF, 1 to 8: 1 is upright, from 5 on width and height are exchanged
    hash: ImageHash


@dataclass(frozen=True)
class MapFacts:
    """What is kept of the map of one image."""

    fault: str = ""  # why it cannot be read, or ""
    values: frozenset[int] = frozenset()
    unknown: Mapping[int, int] = field(default_factory=dict)  # pixels of each value that is not a class or segment
    classes: Mapping[int, int] = field(default_factory=dict)  # pixels of each class; `IGNORE`, -1: unlabelled ones
    coloured: bool = False
    blur: float = 0.0  # share of the changes from pixel to pixel that pass through a value between two others
    segments: tuple[tuple[PanopticSegment, int, tuple[int, int, int, int]], ...] = ()
    """Each segment of a panoptic map as stated, its pixels on the map and their box x y width height."""

    @property
    def void(self) -> float:
        """Share of unlabelled pixels."""
        return sum(self.classes.get(label, 0) for label in (-1, IGNORE)) / max(sum(self.classes.values()), 1)


@dataclass(frozen=True, eq=False)
class ImageRow:
    """One image of a data set. Where pixels were not read, `picture` is None and `error` and `map` are empty."""

    source: Split[Any]
    index: int  # in the split `source`
    split: str
    name: str
    picture: Picture | None = None
    error: str = ""  # why the image cannot be read, or ""
    stated_size: tuple[int, int] | None = None  # width and height by its annotations or its map
    label: int = -1
    faults: tuple[str, ...] = ()  # why annotations cannot be read; these are not among the objects
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
    has_shape: Bools  # whether each has a mask (N,)
    sized: Bools  # whether the size of its image is known (N,); without pixels some are taken as `UNKNOWN`
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
    def clipped_sides(self) -> Floats:
        """Width and height of the parts of the boxes within the image (N, 2), not above 0 where there is none."""
        return np.minimum(self.boxes[:, 2:], self.limits) - self.boxes[:, :2].clip(0)

    @cached_property
    def clear(self) -> Bools:
        """Objects that are trained on (N,): not a crowd, with a box that is not empty within the image."""
        return ~self.crowd & (self.clipped_sides > 0).all(1)

    @cached_property
    def input_sides(self) -> Floats:
        """Smaller side of each box, clipped to the image, over the longer side of the image (N,)."""
        return self.clipped_sides.min(1) / self.limits.max(1)  # what `frames.fit` makes of it, but for rounding


@dataclass(frozen=True, eq=False)
class Table:
    """All that the checks know of a data set."""

    sources: Mapping[str, Split[Any]]
    task: str
    truth: Truth
    input_size: int  # height and width of the network's input in pixels
    channels: int | None  # those of `Split.image`
    classes: tuple[str, ...]
    images: tuple[ImageRow, ...]
    objects: ObjectColumns

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
    def num_clear(self) -> Ints:
        """Number of objects of each image that are trained on (I,)."""
        return np.bincount(self.objects.image[self.objects.clear], minlength=len(self))

    @cached_property
    def readable(self) -> dict[ImageRow, Picture]:
        """The images that can be read with their maps."""
        return {image: image.picture for image in self.images if image.picture and not image.map.fault}

    @cached_property
    def counts(self) -> dict[str, Ints]:
        """By split, the usable images that have each class, or the objects of each class (K,)."""
        if self.truth == "lists":
            return {split: _count_lists(self.sources.get(split), self.classes) for split in TRAINING_SPLITS}
        if not self.images:  # training makes no rows of 100,000 labels
            labelled = {split: images for split, images in self.sources.items() if isinstance(images, LabelSplit)}
            return {split: _count_labels(labelled.get(split), self.classes) for split in TRAINING_SPLITS}
        if self.truth == "objects":
            labels, splits = self.objects.labels[self.objects.clear], self.object_splits[self.objects.clear]
        else:
            images = [image for image in self.images if not image.error and not image.map.fault]
            pairs = [(label, image.split) for image in images for label in (image.label, *image.map.classes)]
            labels, splits = np.array([k for k, _ in pairs], np.int64), np.array([split for _, split in pairs], str)
        known, size = (labels >= 0) & (labels < len(self.classes)), len(self.classes)
        return {split: np.bincount(labels[known & (splits == split)], minlength=size) for split in TRAINING_SPLITS}

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

        Severity and message are those of `findings.report`. The first object in each image is an example with a
        picture, its `masks` drawn on request, and a caption by `note(*rows)`.
        """
        rows = np.flatnonzero(which) if which.dtype == bool else which
        if not len(rows):
            return
        rows, note = rows.reshape(len(rows), -1), note or self.describe
        images, first, times = np.unique(self.objects.image[rows[:, 0]], return_index=True, return_counts=True)
        examples = []
        for at in range(min(len(images), MAX_EXAMPLES)):
            image, objects = self.images[images[at]], rows[first[at]].tolist()
            more = f"; {times[at] - 1:,} more in this image" if times[at] > 1 else ""
            pictures = (self.draw(image, objects, masks),) if image.picture or image.error else ()
            examples.append(Example((image.name,), note(*objects) + more, pictures))
        total = len(self.objects) if total is None else total
        yield from report(severity, code, examples, thing, text, total, count=len(rows))

    def draw(
        self, image: ImageRow, objects: Sequence[int] | None = None, masks: bool = False, values: Sequence[int] = ()
    ) -> bytes:
        """A small JPEG file of an image with its annotations, empty where it cannot be read.

        With `objects`, only the part around these is shown, with their `masks` on request; with `values`, the pixels
        of the map that have them.
        """
        try:
            picture = to_picture(read_input(image.source.encoded(image.index), self.channels, image.name))
            if isinstance(image.source, MaskSplit | PanopticSplit):
                stored, colours = _read_map(image.source, image.index)
                return to_jpeg(draw_map(picture, colours, np.isin(stored, values) if values else None))
        except (BadData, BadImage, OSError):
            return b""
        if self.truth == "objects":
            whole = objects is None
            row = self.images.index(image) if whole else 0
            shown = np.flatnonzero(self.objects.image == row)[:MAX_DRAWN].tolist() if objects is None else objects
            drawn = [mask for i in shown if masks and (mask := self._mask(image, i)) is not None]
            return to_jpeg(draw_objects(picture, self.objects.boxes[shown], drawn, whole))
        picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        return to_jpeg(picture)

    def _mask(self, image: ImageRow, row: int) -> Bools | None:
        """The mask of an object, None where there is none that fits the image."""
        if np.isnan(self.objects.mask_areas[row]) or not image.usable or image.stated_size is None:
            return None  # the stated size may be of any number of pixels
        width, height = image.stated_size
        assert isinstance(image.source, ObjectSplit), "only these have masks of objects"
        shape = image.source.entry(image.index).shape(int(self.objects.place[row]))
        return rle.decode(rle.from_coco(shape, height, width))


def _read_map(images: MaskSplit | PanopticSplit, index: int) -> tuple[Values, Values]:
    """Values or segment ids (H, W) of a map, and a palette index for each."""
    if isinstance(images, MaskSplit):
        values, coloured = images.stored(index)
        return values, images.code.classes(values, coloured)
    ids = images.ids(index)
    known, places = np.unique(ids, return_inverse=True)
    colours = np.where(known == 0, IGNORE, np.arange(len(known)) % IGNORE)
    return ids, colours[places.reshape(ids.shape)]


def truth_of(images: Split[Any] | None) -> Truth:
    """Kind of the annotations of a split."""
    return next((truth for kind, truth in TRUTHS.items() if isinstance(images, kind)), "other")


def look_at_each(images: Sized, look: Callable[[int], T], title: str = "checking images") -> Iterator[T]:
    """`look(index)` of every image in order, by one thread a core, with a bar."""
    count, chunk = len(images), 1024  # chunks, for the pool holds all that it was given at once
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looks = (pool.map(look, range(at, min(at + chunk, count))) for at in range(0, count, chunk))
        yield from track(chain.from_iterable(looks), title, count)


def collect(
    splits: Mapping[str, Split[Any]], task: str, input_size: int = 0, pixels: bool = True, channels: int | None = None
) -> Table:
    """The table of the splits of a data set, all of one class.

    Classes of the splits are joined by name, but for maps, which number them alike. Without `pixels` no image, map or
    mask is read, images with labels have no rows, and the table serves the checks that need none. `channels` are those
    of `Split.image`.
    """
    truth = truth_of(next(iter(splits.values()), None))
    lists = [images.classes for images in splits.values()]
    known = [name for names in (lists[:1] if truth in ("values", "segments") else lists) for name in names]
    for images in splits.values():
        if isinstance(images, LabelSplit):
            known += [_class_name(images, label) for label in np.unique(images.labels).tolist()]
    classes = {name: label for label, name in enumerate(dict.fromkeys(known))}
    rows: list[ImageRow] = []
    for split, images in splits.items() if pixels or truth not in ("labels", "lists") else ():
        look = partial(_collect_image, images, split=split, classes=classes, pixels=pixels, channels=channels)
        rows += look_at_each(images, look, f"examining {split}") if pixels else map(look, range(len(images)))
    objects = [images for images in splits.values() if isinstance(images, ObjectSplit)]
    return Table(
        sources=splits,
        task=task,
        truth=truth,
        input_size=input_size,
        channels=channels,
        classes=tuple(classes),
        images=tuple(rows),
        objects=_collect_objects(objects, classes, masks=task == "instance", pixels=pixels),
    )


def _count_labels(images: LabelSplit | None, classes: Sequence[str]) -> Ints:
    """Images of each class (K,)."""
    counts = np.zeros(len(classes), np.int64)
    if images is not None:
        for label, count in zip(*np.unique(images.labels, return_counts=True), strict=True):
            counts[classes.index(_class_name(images, label))] += count
    return counts


def _count_lists(images: Split[Any] | None, classes: Sequence[str]) -> Ints:
    """Images that have each class (K,)."""
    if images is None:
        return np.zeros(len(classes), np.int64)
    numbers = np.array([classes.index(name) for name in images.classes], np.int64)
    return np.bincount(numbers[images.shown_classes()[1]], minlength=len(classes))


def _class_name(images: LabelSplit, label: int) -> str:
    return images.classes[label] if 0 <= label < len(images.classes) else f"label {label}"


def _collect_image(
    images: Split[Any], index: int, split: str, classes: Mapping[str, int], pixels: bool, channels: int | None
) -> ImageRow:
    name = images.name(index)
    values: dict[str, Any] = {}
    if isinstance(images, LabelSplit):
        values["label"] = classes[_class_name(images, images.truth(index))]
    elif isinstance(images, ObjectSplit):
        values = {"stated_size": _stated_size(images, index, pixels), "faults": images.table.errors.get(index, ())}
    if pixels:
        try:
            if isinstance(images, MaskSplit):
                values["map"], values["stated_size"] = _semantic_facts(images, index)
            elif isinstance(images, PanopticSplit):
                values["map"], values["stated_size"] = _panoptic_facts(images, index)
        except BadImage as error:
            values["map"] = MapFacts(str(error))
        try:
            values["picture"] = look_at(images, index, channels)
        except (BadImage, OSError) as error:
            values["error"] = str(error).removeprefix(f"{name}: ")
    return ImageRow(images, index, split, name, **values)


def look_at(images: Split[Any], index: int, channels: int | None = None) -> Picture:
    """What is kept of an image; `channels` are those of `Split.image`. Raises `BadImage` or `OSError`."""
    encoded, name = images.encoded(index), images.name(index)
    image = to_picture(read_input(encoded, channels, name))
    if channels is not None or is_array(encoded):
        return Picture(image.size, "colour", 1, hash_image(image, encoded))
    with open_image(encoded, name) as file:
        orientation = orientation_of(file)  # before `_kind`, which may decode the file
        return Picture(image.size, _kind(file), orientation, hash_image(image, encoded))


def _kind(file: ImageFile.ImageFile) -> str:
    if is_deep(file):
        file.load()
        return "sixteen-bit" if white_of(file) == WHITES[-1] else "low-range"
    if file.mode in ("P", "PA"):
        return "palette"
    if file.has_transparency_data:
        return "transparent"
    return {"L": "grey", "1": "grey", "RGB": "colour", "CMYK": "cmyk"}.get(file.mode, "other-colours")


def _collect_objects(
    splits: Sequence[ObjectSplit], classes: Mapping[str, int], masks: bool, pixels: bool
) -> ObjectColumns:
    """All annotations that can be read, with what is kept of their masks for instance segmentation."""
    tables = [images.table for images in splits]
    names = [np.array([*(classes[name] for name in images.classes), -1], np.int64) for images in splits]
    known = [_sizes(images, pixels)[images.table.owners] for images in splits]
    sizes = [np.where(of > 0, of, UNKNOWN) for of in known]
    boxes = [table.boxes_xywh(slice(None), of) for table, of in zip(tables, sizes, strict=True)]
    xywh, counts = _join(boxes, (4,)), _join([np.diff(table.first) for table in tables])
    faults: list[str] = []
    facts: list[tuple[list[float], float, float]] = []
    for table, of in zip(tables, known, strict=True) if masks else ():
        rows = zip(table.shapes.parts(), of.tolist(), strict=True)
        faults += [_mask_fault(table, row, text, *size) for row, (text, size) in enumerate(rows)]
        if pixels:
            own = zip(of.tolist(), faults[len(faults) - len(of) :], strict=True)
            facts += [_mask_facts(table, row, size[0], size[1], fault) for row, (size, fault) in enumerate(own)]
    return ObjectColumns(
        image=np.repeat(np.arange(len(counts)), counts),
        place=np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts),
        labels=_join([of[table.labels] for of, table in zip(names, tables, strict=True)]),
        boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1),
        limits=_join([one[:, ::-1] for one in sizes], (2,)).astype(np.float64),
        crowd=_join([table.crowd for table in tables]).astype(bool),
        areas=_join([table.areas for table in tables]).astype(np.float64),
        ids=tuple(parse_json(number) for table in tables for number in table.ids.parts()),
        category_ids=tuple(number for table in tables for number in table.category_ids.tolist()),
        has_shape=_join([table.has_shape for table in tables]).astype(bool),
        sized=_join([of[:, 0] > 0 for of in known]).astype(bool),
        mask_faults=tuple(faults),
        mask_boxes=np.array([box for box, _, _ in facts], np.float64).reshape(-1, 4),
        mask_areas=np.array([area for _, area, _ in facts], np.float64),
        mask_beyond=np.array([beyond for *_, beyond in facts], np.float64),
    )


def _join(columns: Sequence[NDArray[Any]], shape: tuple[int, ...] = ()) -> NDArray[Any]:
    """Columns of the splits, also of none."""
    return np.concatenate(columns) if columns else np.zeros((0, *shape), np.int64)


def _stated_size(images: ObjectSplit, index: int, pixels: bool) -> tuple[int, int] | None:
    """Width and height of an image by its annotations; with `pixels` by its file where these state none."""
    height, width = images.table.sizes[index].tolist()
    if not height and pixels:
        entry = images.entry(index)
        height, width = entry.height, entry.width
    return (width, height) if height else None


def _sizes(images: ObjectSplit, pixels: bool) -> Ints:
    """The same of all images as heights and widths (I, 2), 0 where there is none."""
    sizes = images.table.sizes.copy()
    for index in np.flatnonzero(sizes[:, 0] == 0).tolist() if pixels else ():
        entry = images.entry(index)
        sizes[index] = entry.height, entry.width
    return sizes


_POLYGONS = msgspec.json.Decoder(list[list[float]])


def _mask_fault(table: ObjectTable, row: int, text: bytes, height: int, width: int) -> str:
    """Why the mask of an object, as JSON, cannot be read; "" where it can or there is none."""
    if not text or (height * width <= rle.MAX_PIXELS and _is_plain(text)):
        return ""
    shape = table.shape(row, (height, width))
    return rle.fault(shape, *((height, width) if height else rle.stated_size(shape)))


def _is_plain(shape: bytes) -> bool:
    """Whether a mask as JSON consists of polygons without a fault, by a test that is faster than `rle.fault`.

    Where it is False, `rle.fault` decides.
    """
    try:
        polygons = _POLYGONS.decode(shape)
    except (ValueError, RecursionError):
        return False
    largest = rle.MAX_COORDINATE
    return all(
        len(one) >= 6
        and len(one) % 2 == 0
        and -largest <= (low := min(one))
        and (high := max(one)) <= largest
        and (high - low) * len(one) <= rle.MAX_PERIMETER
        for one in polygons
    )


def _mask_facts(table: ObjectTable, row: int, height: int, width: int, fault: str) -> tuple[list[float], float, float]:
    """The box around the pixels of a mask, their number, and by how many it exceeds the image."""
    segmentation = table.shape(row, (height, width))
    if segmentation is None or fault:
        return [np.nan] * 4, np.nan, 0.0
    mask = rle.from_coco(segmentation, height, width)
    x, y, w, h = np.asarray(coco.toBbox([mask]), np.float64).reshape(4).tolist()
    beyond = 0.0
    if isinstance(segmentation, list):
        points = np.concatenate([np.asarray(p, np.float64).reshape(-1, 2) for p in segmentation])
        beyond = max((-points).max(), (points - (width, height)).max(), 0)
    return [x, y, x + w, y + h], float(rle.areas([mask])[0]), beyond


def _semantic_facts(images: MaskSplit, index: int) -> tuple[MapFacts, tuple[int, int]]:
    """What is kept of a map of classes, and its width and height."""
    values, coloured = images.stored(index)
    known, counts = np.unique(values, return_counts=True)
    table = images.code.table(coloured)
    facts = MapFacts(
        values=frozenset(known.tolist()),
        unknown={value: n for value, n in zip(known.tolist(), counts.tolist(), strict=True) if value not in table},
        classes=_add_up(images.code.classes(known, coloured), counts),
        coloured=coloured,
        blur=blur_of(values),
    )
    return facts, (values.shape[1], values.shape[0])


def _panoptic_facts(images: PanopticSplit, index: int) -> tuple[MapFacts, tuple[int, int]]:
    """What is kept of a map of segments, and its width and height."""
    ids = images.ids(index)
    known, counts = np.unique(ids, return_counts=True)
    pixels = dict(zip(known.tolist(), counts.tolist(), strict=True))
    parts = images.segments_of(index, ids)
    labels = {part.id: part.label for part in parts}
    segments = []
    for part in parts:
        x1, y1, x2, y2 = rle.box_of(ids == part.id)
        segments.append((part, pixels.get(part.id, 0), (x1, y1, x2 - x1, y2 - y1)))
    listed = pixels if images.parts is None else {0, *labels}
    facts = MapFacts(
        unknown={value: count for value, count in pixels.items() if value not in listed},
        classes=_add_up(np.array([labels.get(value, IGNORE) for value in pixels]), counts),
        segments=tuple(segments),
    )
    return facts, (ids.shape[1], ids.shape[0])


def _add_up(labels: Values, counts: Values) -> dict[int, int]:
    """Pixels of each class, from the class and the number of pixels of each value."""
    return {label: int(counts[labels == label].sum()) for label in np.unique(labels).tolist()}


def blur_of(values: Values) -> float:
    """Share of the changes along rows that pass through a single pixel of a value between its neighbours'."""
    before, here, after = values[:, :-2], values[:, 1:-1], values[:, 2:]
    changes = int((here != after).sum())
    between = ((before < here) & (here < after)) | ((before > here) & (here > after))
    return float(between.sum() / changes) if changes else 0.0
