"""Objects with class names instead of class numbers, as VOC, labelme and CVAT store them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from featherbone.data.formats import shapes
from featherbone.data.formats.format import Opened, Reading
from featherbone.data.layouts import split_of
from featherbone.data.listing import below, lines_of, list_folder, list_folders, list_images
from featherbone.data.object_split import ObjectSplit
from featherbone.data.object_table import ObjectTable
from featherbone.data.objects import Annotation
from featherbone.errors import BadData
from featherbone.files import read_text

CLASS_LISTS = ("labels.txt", "classes.txt", "predefined_classes.txt", "labelmap.txt")
"""Files of class names, a name a line, in their order: labelme's, labelImg's and CVAT's."""
NO_CLASS = frozenset(("background", "__background__", "_background_", "__ignore__"))
_PLACES = frozenset(
    ("annotations", "annotation", "xmls", "xml", "jsons", "json", "labels", "ann", "images", "img", "data")
)
_MASKS = frozenset(("segmentationclass", "segmentationobject", "segmentationclassaug", "masks"))
"""Folders whose pictures are masks."""
_MAX_FOLDERS = 20


@dataclass(frozen=True)
class NamedImage:
    """One annotated image."""

    path: Path | None
    """None where the image does not exist."""
    name: str
    """What its annotation file calls it."""
    objects: tuple[Annotation, ...]
    """Objects with names, but not yet with numbers of classes."""
    size: tuple[int, int] | None = None
    """Height and width as stated; None where the image file is measured."""
    split: str | None = None
    """The split that its place or file states; empty for an image outside of all splits."""
    num_ignored: int = 0
    """Shapes that are not objects."""


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
    list, `unlisted` are the images without annotations beside the others. Images that name no split are for training
    if no other is.
    """
    default = None if any(image.split == "train" for image in images) else "train"
    chosen = [image for image in images if split == (default if image.split is None else image.split)]
    if not chosen and not missing and not unlisted:
        return None
    class_list = "the labels of the XML file"
    if not classes:
        used = {one.name for image in images for one in image.objects if not one.error}
        classes, class_list = _find_classes(root, used)
    numbers = {name: number for number, name in enumerate(classes)}
    found = [(image.path, image.size, image.objects) for image in chosen if image.path]
    if unlisted is None:
        folders = {path.parent for path, _, _ in found}
        beside = {path for folder in folders for path in list_images(folder) if path.parent in folders}
        unlisted = sorted(path for path in beside - {image.path for image in images} if not is_mask(root, path))
    if reading.unlabelled == "negative":
        found += [(path, None, ()) for path in unlisted]
        unlisted = ()
    table = ObjectTable.of(
        (
            below(root, path),
            number,
            size,
            [_numbered(one, numbers, class_list) for one in objects if one.error or one.name not in NO_CLASS],
        )
        for number, (path, size, objects) in enumerate(found, 1)
    )
    notes = list(notes)
    if (count := sum(image.split is None for image in images)) and split == "train" and default is None:
        notes.insert(0, f"{count:,} {things} outside of the splits are not read")
    if count := sum(image.num_ignored for image in chosen):
        notes.append(f"{count:,} points, lines and other shapes that are not objects are not read")
    if count := sum(one.crowd for _, _, objects in found for one in objects):
        notes.append(f"{count:,} objects marked as difficult are ignored: not trained on, and not counted")
    return Opened(
        images=ObjectSplit(root, table, tuple(classes), tuple(range(len(classes)))),
        missing=(*missing, *(image.name for image in chosen if not image.path)),
        unlisted=tuple(below(root, path) for path in unlisted),
        notes=tuple(notes),
    )


def _numbered(one: Annotation, numbers: dict[str, int], class_list: str) -> Annotation:
    if one.error:
        return one
    if one.name not in numbers:
        return shapes.unreadable(
            one.place, f"class {one.name!r} is not listed in {class_list}; list it, or correct the name"
        )
    return one._replace(label=numbers[one.name], category_id=numbers[one.name])


def _find_classes(root: Path, used: set[str]) -> tuple[Sequence[str], str]:
    """Class names in their order, and the file they are listed in; without one, the `used` names sorted and ""."""
    for file in CLASS_LISTS:
        if (root / file).is_file():
            names = [line.split(":")[0].strip() for line in lines_of(read_text(root / file, file), "#")]
            names = [name for name in names if name and name not in NO_CLASS]
            if twice := next((name for name in names if names.count(name) > 1), ""):
                raise BadData(f"{file}: {twice!r} is listed twice; give each class a different name")
            if names:
                return names, file
    return sorted(used - NO_CLASS), ""


def is_mask(root: Path, path: Path) -> bool:
    """Whether a picture is a mask and not an image, by its folders."""
    return not _MASKS.isdisjoint(part.lower() for part in path.relative_to(root).parts[:-1])


def split_of_path(root: Path, path: Path) -> str | None:
    """The split that one of the folders between `root` and a file names."""
    parents = path.relative_to(root).parts[:-1]
    return next((split for part in parents if (split := split_of(part))), None)


def first_files(root: Path, suffix: str) -> Iterator[Path]:
    """The first three files with a suffix in each folder that holds annotations in usual layouts."""
    for folder in _places(root):
        files = (path for path in list_folder(folder) if path.suffix.lower() == suffix and path.is_file())
        yield from islice(files, 3)


def _places(root: Path) -> Iterator[Path]:
    """`root`, its splits and plainly named folders, two levels deep; of a few folders, all."""
    yield root
    folders = list_folders(root)
    for folder in folders:
        if len(folders) <= _MAX_FOLDERS or _is_place(folder):
            yield folder
            yield from filter(_is_place, list_folders(folder))


def _is_place(folder: Path) -> bool:
    return folder.name.lower() in _PLACES or split_of(folder.name) is not None
