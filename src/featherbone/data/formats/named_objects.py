"""Objects with class names instead of class numbers, as VOC, labelme and CVAT store them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from featherbone.data.formats.format import Opened, Reading
from featherbone.data.layouts import split_of
from featherbone.data.listing import list_folder, list_folders, list_images
from featherbone.data.objects import Annotation, Objects, ObjectSplit, size_of
from featherbone.errors import BadData, BadImage
from featherbone.files import read_text
from featherbone.ops import rle

CLASS_LISTS = ("labels.txt", "classes.txt", "predefined_classes.txt", "labelmap.txt")
"""Files of class names, a name a line, in their order: labelme's, labelImg's and CVAT's."""
NO_CLASS = frozenset(("background", "__background__", "_background_", "__ignore__"))
_PLACES = frozenset(
    ("annotations", "annotation", "xmls", "xml", "jsons", "json", "labels", "ann", "images", "img", "data")
)
_MASKS = frozenset(("segmentationclass", "segmentationobject", "segmentationclassaug", "masks"))
"""Folders whose pictures are masks."""
_MAX_FOLDERS = 20
MAX_PIXELS = 1 << 28
"""Pixels of the largest image whose masks are read."""
NUM_CORNERS = 64
"""Corners of the polygon that replaces an ellipse."""


class Shape(NamedTuple):
    """Where an object is."""

    box: tuple[float, float, float, float]
    """x y width height in pixels."""
    segmentation: Any = None
    """The mask in COCO's form."""


@dataclass(frozen=True)
class NamedObject:
    """One object of an image."""

    where: str
    """File and place in it, for messages."""
    name: str = ""
    """Its class."""
    shape: Shape | None = None
    ignored: bool = False
    """Whether it is not trained on, and detections there are not counted as false."""
    error: str = ""
    """Why it cannot be read, and what to do."""

    def annotation(self, numbers: dict[str, int], class_list: str) -> Annotation:
        """The object with the number of its class; `class_list` is the file of class names."""
        if self.error:
            return Annotation(error=f"{self.where}: {self.error}")
        if self.name not in numbers:
            reason = f"class {self.name!r} is not listed in {class_list}; list it, or correct the name"
            return Annotation(error=f"{self.where}: {reason}")
        number = numbers[self.name]
        assert self.shape is not None, "an object without an error has a shape"
        return Annotation(number, *self.shape, crowd=self.ignored, category_id=number)


@dataclass(frozen=True)
class NamedImage:
    """One annotated image."""

    path: Path | None
    """None where the image does not exist."""
    name: str
    """What its annotation file calls it."""
    objects: tuple[NamedObject, ...]
    size: tuple[int, int] | None = None
    """Height and width as stated; None where the image file is measured."""
    split: str | None = None
    """The split that its place or file states; empty for an image outside of all splits."""
    num_ignored: int = 0
    """Shapes that are not objects."""


def box_shape(x1: float, y1: float, x2: float, y2: float) -> Shape:
    """A box, x1 y1 x2 y2 in pixels."""
    return Shape((x1, y1, x2 - x1, y2 - y1))


def polygon_shape(polygons: Sequence[Sequence[float]]) -> Shape:
    """The polygons x y x y ... of one object, in pixels."""
    points = np.concatenate([np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in polygons])
    box = box_shape(*points.min(0).tolist(), *points.max(0).tolist()).box
    return Shape(box, [list(polygon) for polygon in polygons])


def ellipse_shape(centre: Sequence[float], radii: Sequence[float], angle: float = 0.0) -> Shape:
    """An ellipse as a polygon, turned clockwise in the image by `angle` in radians."""
    turns = np.arange(NUM_CORNERS) * (2 * np.pi / NUM_CORNERS)
    return turned_shape(centre, np.column_stack([radii[0] * np.cos(turns), radii[1] * np.sin(turns)]), angle)


def turned_shape(centre: Sequence[float], points: Any, angle: float) -> Shape:
    """A polygon of points (N, 2) around the origin, turned clockwise in the image and moved to `centre`."""
    cos, sin = np.cos(angle), np.sin(angle)
    return polygon_shape([(points @ np.array([[cos, sin], [-sin, cos]]) + centre).ravel().tolist()])


def check_part(left: int, top: int, width: int, height: int, size: tuple[int, int]) -> None:
    """Raise `ValueError` where a part of an image of `size`, height and width, is not inside it."""
    if not 0 < size[0] * size[1] <= MAX_PIXELS:
        raise ValueError(f"an image of {size[1]}x{size[0]} pixels, of 1 to {MAX_PIXELS:,} in all; correct its size")
    if min(left, top) < 0 or min(width, height) < 1 or left + width > size[1] or top + height > size[0]:
        raise ValueError(
            f"a mask of {width}x{height} pixels at {left}, {top} is not inside the image of {size[1]}x{size[0]}; draw "
            "it again"
        )


def mask_shape(part: rle.Bools, left: int, top: int, size: tuple[int, int]) -> Shape:
    """The mask of one object in an image of `size`, of which `part` is a part that passed `check_part`."""
    mask = np.zeros(size, bool)
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part
    return Shape(box_shape(*rle.box_of(mask)).box, rle.encode(mask))


def join_shapes(shapes: Sequence[Shape]) -> Shape:
    """The parts of one object as a whole: the union of their pixels, or where none has pixels the box around all."""
    if len(shapes) == 1:
        return shapes[0]
    corners = np.array([shape.box for shape in shapes], np.float64)
    corners[:, 2:] += corners[:, :2]
    box = box_shape(*corners[:, :2].min(0).tolist(), *corners[:, 2:].max(0).tolist()).box
    if not any(shape.segmentation for shape in shapes):
        return Shape(box)
    given = [shape.segmentation or [_corners(shape.box)] for shape in shapes]
    size = next((part["size"] for part in given if isinstance(part, dict)), None)
    if size is None:
        return Shape(box, [polygon for polygons in given for polygon in polygons])
    masks = [rle.decode(rle.from_coco(part, *size)) for part in given]
    return Shape(box, rle.encode(np.any(masks, axis=0)))


def _corners(box: Sequence[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def join_object(where: str, label: str, parts: Iterable[tuple[str, Any]], read: Callable[..., Shape]) -> NamedObject:
    """The object of class `label` whose parts, places and shapes in the file, `read(part, place)` turns into shapes."""
    if not label:
        return NamedObject(where, error="no label; write the class of the object")
    shapes = []
    for place, part in parts:
        try:
            shapes.append(read(part, place))
        except (ValueError, BadImage) as error:
            return NamedObject(place, error=str(error).removeprefix(f"{place}: "))
    return NamedObject(where, label, join_shapes(shapes))


def find_classes(root: Path, used: Iterable[str]) -> tuple[tuple[str, ...], str]:
    """Class names in their order, and the file they are listed in; without one, the `used` names sorted and "".

    Raises `BadData` for a file that lists a name twice.
    """
    for file in CLASS_LISTS:
        if (root / file).is_file():
            lines = read_text(root / file, file).splitlines()
            names = [line.split(":")[0].strip() for line in lines if not line.startswith("#")]
            names = [name for name in names if name and name not in NO_CLASS]
            if twice := next((name for name in names if names.count(name) > 1), ""):
                raise BadData(f"{file}: {twice!r} is listed twice; give each class a different name")
            if names:
                return tuple(names), file
    return tuple(sorted(set(used) - NO_CLASS)), ""


def assemble(
    root: Path,
    split: str,
    images: Sequence[NamedImage],
    reading: Reading,
    things: str,
    classes: Sequence[str] = (),
    missing: Sequence[str] = (),
    unlisted: Sequence[Path] | None = None,
    notes: Sequence[str] = (),
) -> Opened | None:
    """The images of a split; None where there are none.

    `images` are those of all splits, from `things`, and `classes` the names that a file declares; without them the
    class list, or the names in use. `missing` and `unlisted` images are listed, but have no annotation file; without a
    list, `unlisted` are the images without annotations beside the others.
    """
    splits, rest = _fill_splits([image.split for image in images], things)
    chosen = [image for image, of in zip(images, splits, strict=True) if of == split]
    if not chosen and not missing and not unlisted:
        return None
    class_list = "the labels of the XML file"
    if not classes:
        used = (one.name for image in images for one in image.objects if not one.error)
        classes, class_list = find_classes(root, used)
    numbers = {name: number for number, name in enumerate(classes)}
    found = [(image.path, image.size, image.objects) for image in chosen if image.path]
    annotated = {image.path for image in images if image.path}
    folders = {path.parent for path, _, _ in found}
    spare = {path for folder in folders for path in list_images(folder) if path.parent in folders} - annotated
    if unlisted is None:
        unlisted = sorted(path for path in spare if not is_mask(root, path))
    if reading.unlabelled == "negative":
        found += [(path, None, ()) for path in unlisted]
        unlisted = ()
    entries = [
        Objects.parsed(
            path.relative_to(root).as_posix(),
            number,
            *(size or size_of(path)),
            [one.annotation(numbers, class_list) for one in objects if one.error or one.name not in NO_CLASS],
        )
        for number, (path, size, objects) in enumerate(found, 1)
    ]
    notes = [*(rest if split == "train" else ()), *notes]
    if count := sum(image.num_ignored for image in chosen):
        notes.append(f"{count:,} points, lines and other shapes that are not objects are not read")
    if count := sum(one.ignored for image in chosen if image.path for one in image.objects):
        notes.append(f"{count:,} objects marked as difficult are ignored: not trained on, and not counted")
    return Opened(
        images=ObjectSplit(root, tuple(entries), tuple(classes), tuple(range(len(classes)))),
        missing=(*missing, *(image.name for image in chosen if not image.path)),
        unlisted=tuple(path.relative_to(root).as_posix() for path in unlisted),
        notes=tuple(notes),
    )


def is_mask(root: Path, path: Path) -> bool:
    """Whether a picture is a mask and not an image, by its folders."""
    return not _MASKS.isdisjoint(part.lower() for part in path.relative_to(root).parts[:-1])


def places(root: Path) -> Iterator[Path]:
    """Folders that hold annotations in usual layouts: `root`, its splits and plainly named ones, two levels deep."""
    yield root
    folders = list_folders(root)
    for folder in folders:
        if len(folders) <= _MAX_FOLDERS or _is_place(folder):
            yield folder
            yield from (inner for inner in list_folders(folder) if _is_place(inner))


def first_files(root: Path, suffix: str) -> Iterator[Path]:
    """The first three files with a suffix in each of the `places` of a folder."""
    for folder in places(root) if root.is_dir() else ():
        files = (path for path in list_folder(folder) if path.suffix.lower() == suffix and path.is_file())
        yield from islice(files, 3)


def _is_place(folder: Path) -> bool:
    return folder.name.lower() in _PLACES or split_of(folder.name) is not None


def _fill_splits(splits: Sequence[str | None], things: str) -> tuple[list[str | None], list[str]]:
    """The splits of things, where those that name none are for training if no other is; and a note on the rest."""
    if "train" not in splits:
        return ["train" if split is None else split for split in splits], []
    rest = splits.count(None)
    return list(splits), [f"{rest:,} {things} outside of the splits are not read"] if rest else []


def split_of_path(root: Path, path: Path) -> str | None:
    """The split that one of the folders between `root` and a file names."""
    parents = path.relative_to(root).parts[:-1]
    return next((split for part in parents if (split := split_of(part))), None)
