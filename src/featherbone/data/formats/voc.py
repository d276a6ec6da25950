"""Pascal VOC's XML files, one an image, as VOC itself, labelImg, CVAT, Roboflow and others store them.

Layouts: `Annotations/*.xml`, `JPEGImages/*` and `ImageSets/Main/{train,val,test}.txt`; or `train/` and `val/` with both
kinds of files; or no splits. VOC counts pixels from 1 and includes the last: `xmin 1`, `xmax 80` is 0 to 80 here. Where
a coordinate is below 1 in some file, the tool counted from 0, and they are taken as they are.
"""

from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element

from featherbone.data.formats.format import Format, Opened, Reading
from featherbone.data.formats.named_objects import (
    NamedImage,
    NamedObject,
    assemble,
    box_shape,
    first_files,
    is_mask,
    split_of_path,
)
from featherbone.data.formats.xml_files import number_of, read_xml, root_of, text_of
from featherbone.data.layouts import SPLITS, names_of
from featherbone.data.listing import list_files, list_folder, list_images
from featherbone.data.named_files import NamedFiles, written_parts
from featherbone.errors import BadData
from featherbone.files import read_text

SETS = Path("ImageSets", "Main")


class Voc(Format):
    """Pascal VOC's XML files. Objects marked as difficult are ignored, as in VOC's own evaluation."""

    name = "Pascal VOC"

    def tasks(self, folder: Path) -> frozenset[str]:
        """Detection where there is an XML file whose root is `annotation` in one of the usual places."""
        found = any(root_of(path) == "annotation" for path in first_files(folder, ".xml"))
        return frozenset(("detection",) if found else ())

    def open(self, folder: Path, task: str, split: str, reading: Reading) -> Opened | None:
        contents: dict[Path, Element | str] = {}
        for path in list_files(folder, (".xml",)):
            if root_of(path) == "annotation":
                name = path.relative_to(folder).as_posix()
                try:
                    contents[path] = read_xml(path, name)
                except BadData as error:
                    contents[path] = str(error).removeprefix(f"{name}: ")
        first = 0 if any(_has_low_corner(content) for content in contents.values()) else 1
        images = _Images(folder)
        files = [_read(images, path, content, first) for path, content in contents.items()]
        missing, unlisted = [], None
        if listed := _read_lists(folder):
            stems = dict.fromkeys(listed.get(split, ()))
            annotated = {path.stem for path in contents}
            files = [
                replace(file, split=split if path.stem in stems else "")
                for path, file in zip(contents, files, strict=True)
            ]
            rest = [stem for stem in stems if stem not in annotated]
            missing = [stem for stem in rest if stem not in images.by_stem]
            unlisted = [images.by_stem[stem][0] for stem in rest if stem in images.by_stem]
        notes = [] if first else ["coordinates start at 0, not at VOC's 1, and are used as they are"]
        return assemble(folder, split, files, reading, "XML files", missing=missing, unlisted=unlisted, notes=notes)


def _has_low_corner(content: Element | str) -> bool:
    """Whether a readable box of a file has a coordinate below 1."""
    if isinstance(content, str):
        return False
    boxes = [_object(one, "", 1) for one in content.findall("object")]
    return any(min(one.shape.box[:2]) < 0 for one in boxes if one.shape)


def _read(images: "_Images", path: Path, content: Element | str, first: int) -> NamedImage:
    """What a file states; one that cannot be read has one object with `error`."""
    name, split = path.relative_to(images.root).as_posix(), split_of_path(images.root, path)
    if isinstance(content, str):
        return NamedImage(images.find(path, ""), name, (NamedObject(name, error=content),), None, split)
    sides = [number_of(text_of(content, f"size/{side}")) for side in ("height", "width")]
    size = (int(sides[0]), int(sides[1])) if sides[0] and sides[1] and min(sides[0], sides[1]) > 0 else None
    rows = enumerate(content.findall("object"), 1)
    objects = tuple(_object(one, f"{name}, object {number}", first) for number, one in rows)
    filename = text_of(content, "filename")
    return NamedImage(images.find(path, filename), filename or name, objects, size, split)


def _object(element: Element, where: str, first: int) -> NamedObject:
    """An object; `first` is the number of the first pixel."""
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
        return NamedObject(where, error=f"{low} {texts[low]} is beyond {high} {texts[high]}; swap or correct them")
    ignored = text_of(element, "difficult").lower() in ("1", "true")
    return NamedObject(where, label, box_shape(x1 - first, y1 - first, x2, y2), ignored)


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
    """Images of XML files: the one of the same plain name, as VOC pairs them, else the one that the file names."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.named = NamedFiles(root, (root,), "the XML files")
        self.by_stem: dict[str, list[Path]] = {}
        for path in list_images(root):
            if not is_mask(root, path):
                self.by_stem.setdefault(path.stem, []).append(path)

    def find(self, file: Path, filename: str) -> Path | None:
        """The image of a file that names `filename`; None where there is none. Raises `BadData` where it is unclear."""
        found = self.by_stem.get(file.stem, [])
        if len(found) > 1:
            folders = {*file.relative_to(self.root).parts[:-1]}
            ranks = [
                (path.parent == file.parent, len(folders & {*path.relative_to(self.root).parts})) for path in found
            ]
            found = [path for path, rank in zip(found, ranks, strict=True) if rank == max(ranks)]
        if len(found) > 1 and filename:
            found = [path for path in found if path.name == filename] or found
        if len(found) > 1:
            names = " or ".join(path.relative_to(self.root).as_posix() for path in found[:2])
            name = file.relative_to(self.root).as_posix()
            raise BadData(f"{name}: its image may be {names}; keep one of them, or put the file beside its image")
        return found[0] if found else self.named.find(filename) if filename else None
