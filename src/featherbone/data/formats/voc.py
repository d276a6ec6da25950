"""Pascal VOC's XML files, one an image, as VOC itself, labelImg, CVAT, Roboflow and others store them.

Layouts: `Annotations/*.xml`, `JPEGImages/*` and `ImageSets/Main/{train,val,test}.txt`; or `train/` and `val/` with both
kinds of files; or no splits. VOC counts pixels from 1 and includes the last: `xmin 1`, `xmax 80` is 0 to 80 here. Where
a coordinate is below 1 in some file, the tool counted from 0, and they are taken as they are.
"""

from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element

from featherbone.data.formats import shapes
from featherbone.data.formats.format import Format, Opened, Reading
from featherbone.data.formats.named_objects import NamedImage, assemble, first_files, is_mask, split_of_path
from featherbone.data.formats.xml_files import number_of, read_xml, root_of, text_of
from featherbone.data.layouts import SPLITS, names_of
from featherbone.data.listing import SUFFIXES, below, lines_of, list_files, list_folder, list_images
from featherbone.data.named_files import NamedFiles, written_parts
from featherbone.data.objects import Annotation
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
        finder = _Images(folder)
        paths = [path for path in list_files(folder, (".xml",)) if root_of(path) == "annotation"]
        images = [_read(finder, path) for path in paths]
        missing, unlisted, notes = [], None, []
        if listed := _read_lists(folder):
            stems = dict.fromkeys(listed.get(split, ()))
            images = [
                replace(image, split=split if path.stem in stems else "")
                for image, path in zip(images, paths, strict=True)
            ]
            rest = stems.keys() - {path.stem for path in paths}
            missing = [stem for stem in stems if stem in rest and stem not in finder.by_stem]
            unlisted = [finder.by_stem[stem][0] for stem in stems if stem in rest and stem in finder.by_stem]
        if any(min(one.box[:2]) < 0 for image in images for one in image.objects):
            notes = ["coordinates start at 0, not at VOC's 1, and are used as they are"]
            images = [replace(image, objects=tuple(map(_from_zero, image.objects))) for image in images]
        return assemble(folder, split, images, reading, "XML files", missing=missing, unlisted=unlisted, notes=notes)


def _read(images: "_Images", path: Path) -> NamedImage:
    """What a file states; one that cannot be read has one object with `error`."""
    name, split = below(images.root, path), split_of_path(images.root, path)
    try:
        content = read_xml(path, name)
    except BadData as error:
        return NamedImage(images.find(path, ""), name, (Annotation(error=str(error)),), None, split)
    height, width = (int(number_of(text_of(content, f"size/{side}")) or 0) for side in ("height", "width"))
    rows = enumerate(content.findall("object"), 1)
    objects = tuple(_object(one, f"{name}, object {number}") for number, one in rows)
    filename = text_of(content, "filename")
    size = (height, width) if min(height, width) > 0 else None
    return NamedImage(images.find(path, filename), filename or name, objects, size, split)


def _from_zero(one: Annotation) -> Annotation:
    """An object whose pixels were assumed to be counted from 1."""
    x, y, width, height = one.box
    return one._replace(box=(x + 1, y + 1, width - 1, height - 1))


def _object(element: Element, place: str) -> Annotation:
    label = text_of(element, "name")
    if not label:
        return shapes.unreadable(place, "no name; write the class of the object")
    if element.find("bndbox") is None:
        other = next((f", but {tag}" for tag in ("robndbox", "polygon") if element.find(tag) is not None), "")
        return shapes.unreadable(place, f"no bndbox{other}; write xmin, ymin, xmax and ymax in pixels")
    texts = {side: text_of(element, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")}
    sides = {side: value for side, text in texts.items() if (value := number_of(text)) is not None}
    if wrong := next((side for side in texts if side not in sides), ""):
        return shapes.unreadable(place, f"{wrong} {texts[wrong][:40]!r} is not a number; write pixels")
    for low, high in (("xmin", "xmax"), ("ymin", "ymax")):
        if sides[high] < sides[low]:
            reason = f"{low} {texts[low]} is beyond {high} {texts[high]}; swap or correct them"
            return shapes.unreadable(place, reason)
    difficult = text_of(element, "difficult").lower() in ("1", "true")
    one = shapes.box(sides["xmin"] - 1, sides["ymin"] - 1, sides["xmax"], sides["ymax"])
    return one._replace(name=label, place=place, crowd=difficult)


def _read_lists(root: Path) -> dict[str, list[str]]:
    """Plain names of the images of each split, by the lists of `ImageSets/Main`; empty where there are none."""
    lists = {path.stem: path for path in list_folder(root / SETS) if path.suffix.lower() == ".txt"}
    chosen = {split: lists[names[0]] for split in SPLITS if (names := names_of(split, lists))}
    if "train" not in chosen and (whole := lists.get("trainval") or lists.get("default")):
        chosen["train"] = whole
    texts = {split: read_text(path, below(root, path)) for split, path in chosen.items()}
    return {split: [_stem(line.split()[0]) for line in lines_of(text)] for split, text in texts.items()}


def _stem(name: str) -> str:
    """The plain name of an image, with or without suffix, as lists give it."""
    plain = "".join(written_parts(name)[-1:])
    return Path(plain).stem if plain.lower().endswith((".xml", *SUFFIXES)) else plain


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
        if not found:
            return self.named.find(filename) if filename else None
        folders = {*file.relative_to(self.root).parts[:-1]}
        ranks = [(path.parent == file.parent, len(folders & {*path.relative_to(self.root).parts})) for path in found]
        best = [path for path, rank in zip(found, ranks, strict=True) if rank == max(ranks)]
        best = [path for path in best if path.name == filename] or best
        if len(best) > 1:
            names = " or ".join(below(self.root, path) for path in best[:2])
            name = below(self.root, file)
            raise BadData(f"{name}: its image may be {names}; keep one of them, or put the file beside its image")
        return best[0]
