"""Pascal VOC's XML files, one an image, as VOC itself, labelImg, CVAT, Roboflow and others store them.

Layouts: `Annotations/*.xml`, `JPEGImages/*` and `ImageSets/Main/{train,val,test}.txt`; or `train/` and `val/` with both
kinds of files; or no splits. VOC counts pixels from 1 and includes the last: `xmin 1`, `xmax 80` is 0 to 80 here. Where
a coordinate is below 1 in some file, the tool counted from 0, and they are taken as they are.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree.ElementTree import Element

from featherbone.data.formats.named_objects import (
    NamedImage,
    NamedObject,
    assemble,
    box_shape,
    fill_splits,
    find_classes,
    first_files,
    images_without,
    split_of_path,
)
from featherbone.data.formats.xml_files import number_of, read_xml, root_of, text_of
from featherbone.data.layouts import SPLITS, names_of
from featherbone.data.listing import list_files, list_folder, list_images
from featherbone.data.named_files import NamedFiles, written_parts
from featherbone.data.objects import Opened
from featherbone.errors import BadData
from featherbone.files import read_text

SETS = Path("ImageSets", "Main")
MASKS = frozenset(("segmentationclass", "segmentationobject", "segmentationclassaug", "masks"))
"""Folders whose pictures are no images."""


@dataclass(frozen=True)
class _File:
    """One XML file."""

    path: Path
    filename: str
    """What it names its image."""
    size: tuple[int, int] | None
    objects: tuple[NamedObject, ...]


class Voc:
    """Pascal VOC's format in the registry of formats."""

    name = "Pascal VOC"

    def matches(self, folder: Path) -> bool:
        """Whether there is an XML file whose root is `annotation` in one of the usual places."""
        return any(root_of(path) == "annotation" for path in first_files(folder, ".xml"))

    def tasks(self, folder: Path) -> frozenset[str]:
        """Detection: there are boxes only."""
        return frozenset(("detection",))

    def open(self, folder: Path, split: str, unlabelled: str, check: bool) -> Opened | None:
        """As `Format.open`. Objects marked as difficult are ignored, as VOC's own evaluation does."""
        files = [_read(folder, path) for path in list_files(folder, (".xml",)) if root_of(path) == "annotation"]
        listed = _read_lists(folder)
        splits, notes = fill_splits([split_of_path(folder, file.path) for file in files], "XML files")
        if listed:
            stems = dict.fromkeys(listed.get(split, ()))
            chosen = [file for file in files if file.path.stem in stems]
            rest = [stem for stem in stems if stem not in {file.path.stem for file in files}]
        else:
            chosen, rest = [file for file, of in zip(files, splits, strict=True) if of == split], []
        if not chosen and not rest:
            return None
        every = [one for file in files for one in file.objects]
        classes, class_list = find_classes(folder, (one.name for one in every if not one.error))
        from_zero = any(min(one.shape["bbox"][:2]) < 0 for one in every if not one.error)
        finder = _Images(folder)
        images, missing = [], [stem for stem in rest if stem not in finder.by_stem]
        for file in chosen:
            if path := finder.find(file):
                objects = tuple(map(_counted_from_zero, file.objects)) if from_zero else file.objects
                images.append(NamedImage(path, objects, file.size))
            else:
                missing.append(file.filename or file.path.relative_to(folder).as_posix())
        unlisted = [finder.by_stem[stem][0] for stem in rest if stem in finder.by_stem]
        if not listed:
            annotated = [path for file in files if (path := finder.find(file))]
            unlisted = [path for path in images_without(folder, images, annotated) if finder.is_image(path)]
        notes = [] if listed or split != "train" else notes
        if ignored := sum(bool(one.shape.get("iscrowd")) for image in images for one in image.objects):
            notes.append(f"{ignored:,} objects marked as difficult are ignored: nothing is learned or counted there")
        if from_zero:
            notes.append("coordinates start at 0, not at VOC's 1, and are taken as they are")
        return assemble(folder, images, classes, class_list, check, missing, unlisted, unlabelled, notes)


def _read(root: Path, path: Path) -> _File:
    """What a file states; one that cannot be read has one object with `error`."""
    name = path.relative_to(root).as_posix()
    try:
        content = read_xml(path, name)
    except BadData as error:
        return _File(path, "", None, (NamedObject(name, error=str(error).removeprefix(f"{name}: ")),))
    sides = [number_of(text_of(content, f"size/{side}")) for side in ("height", "width")]
    size = (int(sides[0]), int(sides[1])) if sides[0] and sides[1] and min(sides[0], sides[1]) > 0 else None
    objects = tuple(_object(one, f"{name}, object {number}") for number, one in enumerate(content.findall("object"), 1))
    return _File(path, text_of(content, "filename"), size, objects)


def _object(element: Element, where: str) -> NamedObject:
    label = text_of(element, "name")
    if not label:
        return NamedObject(where, error="no name; write the class of the object")
    if element.find("bndbox") is None:
        other = next((tag for tag in ("robndbox", "polygon") if element.find(tag) is not None), "")
        reason = f"no bndbox, but {other}" if other else "no bndbox"
        return NamedObject(where, error=f"{reason}; write xmin, ymin, xmax and ymax in pixels")
    texts = {side: text_of(element, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")}
    box = {side: number_of(text) for side, text in texts.items()}
    if wrong := next((side for side, value in box.items() if value is None), ""):
        return NamedObject(where, error=f"{wrong} {texts[wrong][:40]!r} is not a number; write pixels")
    x1, y1, x2, y2 = (value for value in box.values() if value is not None)
    if x2 < x1 or y2 < y1:
        low, high = ("xmin", "xmax") if x2 < x1 else ("ymin", "ymax")
        return NamedObject(where, error=f"{low} {texts[low]} is beyond {high} {texts[high]}; exchange or correct them")
    ignored = text_of(element, "difficult").lower() in ("1", "true")
    return NamedObject(where, label, box_shape(x1 - 1, y1 - 1, x2, y2, ignored))


def _counted_from_zero(one: NamedObject) -> NamedObject:
    """An object whose pixels were taken to be counted from 1."""
    if one.error:
        return one
    x, y, width, height = one.shape["bbox"]
    return replace(one, shape={**one.shape, "bbox": [x + 1, y + 1, width - 1, height - 1]})


def _read_lists(root: Path) -> dict[str, list[str]]:
    """Plain names of the images of each split, by the lists of `ImageSets/Main`; empty where there are none."""
    files = list_folder(root / SETS) if (root / SETS).is_dir() else []
    lists = {path.stem: path for path in files if path.suffix.lower() == ".txt"}
    chosen = {split: lists[names[0]] for split in SPLITS if (names := names_of(split, lists))}
    if "train" not in chosen and (whole := lists.get("trainval") or lists.get("default")):
        chosen["train"] = whole
    lines = {split: read_text(path, path.relative_to(root).as_posix()).splitlines() for split, path in chosen.items()}
    return {split: [_stem(line.split()[0]) for line in of if line.strip()] for split, of in lines.items()}


def _stem(name: str) -> str:
    """The plain name of an image, with or without suffix, as lists give it."""
    plain = written_parts(name)[-1:]
    suffixes = (".jpg", ".jpeg", ".png", ".bmp", ".xml", ".tif", ".tiff", ".webp")
    return Path(plain[0]).stem if plain and plain[0].lower().endswith(suffixes) else "".join(plain)


class _Images:
    """Images of XML files: that of the same plain name, as VOC pairs them, else the one that the file names."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.named = NamedFiles(root, (root,), "the XML files")
        self.by_stem: dict[str, list[Path]] = {}
        for path in list_images(root):
            if self.is_image(path):
                self.by_stem.setdefault(path.stem, []).append(path)

    def is_image(self, path: Path) -> bool:
        """Whether a picture is not a mask, by its folders."""
        return not MASKS & {part.lower() for part in path.relative_to(self.root).parts[:-1]}

    def find(self, file: _File) -> Path | None:
        """The image, None where there is none. Raises `BadData` where it may be one of several."""
        found = self.by_stem.get(file.path.stem, [])
        if len(found) > 1:
            folders = file.path.relative_to(self.root).parts[:-1]
            shared = [
                (path.parent == file.path.parent, len(set(folders) & set(path.relative_to(self.root).parts)))
                for path in found
            ]
            found = [path for path, rank in zip(found, shared, strict=True) if rank == max(shared)]
        if len(found) > 1 and file.filename:
            found = [path for path in found if path.name == file.filename] or found
        if len(found) > 1:
            names = " or ".join(path.relative_to(self.root).as_posix() for path in found[:2])
            name = file.path.relative_to(self.root).as_posix()
            raise BadData(f"{name}: its image may be {names}; keep one of them, or put the file beside its image")
        if found:
            return found[0]
        return self.named.find(file.filename) if file.filename else None
