"""Objects by the names of their classes, as formats without class numbers state them, and what they come to."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from featherbone.data.images import upright_size
from featherbone.data.layouts import split_of
from featherbone.data.listing import list_folder, list_folders, list_images
from featherbone.data.objects import Marked, MarkedImages, Opened, unreadable
from featherbone.errors import BadData, BadImage
from featherbone.files import read_text
from featherbone.ops import rle

CLASS_LISTS = ("labels.txt", "classes.txt", "predefined_classes.txt", "labelmap.txt")
"""Files of class names, a name a line, in their order: labelme's, labelImg's and CVAT's."""
NO_CLASS = frozenset(("background", "__background__", "_background_", "__ignore__"))
_PLACES = frozenset(
    ("annotations", "annotation", "xmls", "xml", "jsons", "json", "labels", "ann", "images", "img", "data")
)
_MAX_FOLDERS = 20
MAX_PIXELS = 1 << 28
"""Pixels of the largest image whose masks are read."""


@dataclass(frozen=True)
class NamedObject:
    """One object of an image."""

    where: str
    """File and place in it, for messages."""
    name: str = ""
    """Its class."""
    shape: Mapping[str, Any] = field(default_factory=dict)
    """COCO's form without a class: `bbox`, `segmentation` if there is one, `iscrowd`."""
    error: str = ""
    """Why it cannot be read, and what to do."""


@dataclass(frozen=True)
class NamedImage:
    """One image and its objects."""

    path: Path
    objects: tuple[NamedObject, ...]
    size: tuple[int, int] | None = None
    """Height and width as stated; None where the image's file is to be asked."""


def box_shape(x1: float, y1: float, x2: float, y2: float, ignored: bool = False) -> dict[str, Any]:
    """A box, x1 y1 x2 y2 in pixels; `ignored` where it is nothing to learn, and no mistake to find."""
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": ignored}


def polygon_shape(polygons: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The polygons x y x y ... of one object, in pixels."""
    points = np.concatenate([np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in polygons])
    (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
    return box_shape(x1, y1, x2, y2) | {"segmentation": [list(polygon) for polygon in polygons]}


def mask_shape(mask: rle.Bools) -> dict[str, Any]:
    """The mask (H, W) of one object."""
    x1, y1, x2, y2 = rle.box_of(mask)
    return box_shape(x1, y1, x2, y2) | {"segmentation": rle.encode(mask)}


def join_shapes(shapes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The parts of one object as a whole: their pixels together, or where none has pixels the box around all."""
    if len(shapes) == 1:
        return dict(shapes[0])
    corners = np.array([one["bbox"] for one in shapes], np.float64)
    corners[:, 2:] += corners[:, :2]
    whole = box_shape(*corners[:, :2].min(0).tolist(), *corners[:, 2:].max(0).tolist())
    parts = [one.get("segmentation") for one in shapes]
    if not any(parts):
        return whole
    given = [part or [_corners(one["bbox"])] for part, one in zip(parts, shapes, strict=True)]
    size = next((part["size"] for part in given if isinstance(part, dict)), None)
    if size is None:
        return whole | {"segmentation": [polygon for polygons in given for polygon in polygons]}
    height, width = size
    masks = [rle.decode(rle.from_coco(part, height, width)) for part in given]
    return whole | {"segmentation": rle.encode(np.any(masks, axis=0))}


def _corners(box: Sequence[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


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
    images: Sequence[NamedImage],
    classes: Sequence[str],
    class_list: str,
    check: bool,
    missing: Sequence[str] = (),
    unlisted: Sequence[Path] = (),
    unlabelled: str = "leave-out",
    notes: Sequence[str] = (),
) -> Opened:
    """What the images of a split come to; `unlisted` are those without annotations, which may count as negatives.

    With `check`, `BadData` is raised for the first object that cannot be read or whose class is not listed.
    """
    if unlabelled == "negative":
        images, unlisted = [*images, *(NamedImage(path, ()) for path in unlisted)], ()
    numbers = {name: number for number, name in enumerate(classes)}
    entries: list[Marked] = []
    for image in images:
        kept = [one for one in image.objects if one.error or one.name not in NO_CLASS]
        annotations = tuple(_annotation(one, numbers, class_list) for one in kept)
        if check and (error := next((a["error"] for a in annotations if "error" in a), "")):
            raise BadData(error)
        height, width = image.size or _size(image.path)
        name = image.path.relative_to(root).as_posix()
        entries.append(Marked(name, height, width, len(entries) + 1, annotations))
    if check and missing and not (entries or unlisted):
        raise BadData(
            f"{root}: none of {len(missing)} annotated images is there, as {missing[0]}; put them below {root}"
        )
    masks = all(a.get("segmentation") or a["iscrowd"] for entry in entries for a in entry.annotations)
    marked = MarkedImages(root, tuple(entries), tuple(classes), tuple(range(len(classes))), masks)
    names = tuple(path.relative_to(root).as_posix() for path in unlisted)
    return Opened(marked, tuple(missing), names, 0, tuple(notes))


def _annotation(one: NamedObject, numbers: Mapping[str, int], class_list: str) -> dict[str, Any]:
    if one.error:
        return unreadable(f"{one.where}: {one.error}")
    if one.name not in numbers:
        return unreadable(
            f"{one.where}: class {one.name!r} is not listed in {class_list}; list it, or correct the name"
        )
    return {**one.shape, "label": numbers[one.name], "category_id": numbers[one.name]}


def _size(path: Path) -> tuple[int, int]:
    try:
        return upright_size(path)
    except BadImage:
        return 1, 1  # it is left out as unreadable before anything is made of it


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


def fill_splits(splits: Sequence[str | None], things: str) -> tuple[list[str | None], list[str]]:
    """The splits of things, where those that name none are for training if no other is; and a note on the rest."""
    if "train" not in splits:
        return [split or "train" for split in splits], []
    rest = splits.count(None)
    return list(splits), [f"{rest:,} {things} outside of the splits are not read"] if rest else []


def split_of_path(root: Path, path: Path) -> str | None:
    """The split that one of the folders between `root` and a file names."""
    parents = path.relative_to(root).parts[:-1]
    return next((split for part in parents if (split := split_of(part))), None)


def images_without(root: Path, images: Sequence[NamedImage], annotated: Iterable[Path]) -> list[Path]:
    """Images in the folders of `images` that are not among those `annotated` in any split."""
    folders = {image.path.parent for image in images}
    found = {path for folder in folders for path in list_images(folder) if path.parent in folders}
    return sorted(found - set(annotated))
