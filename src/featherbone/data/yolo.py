"""YOLO's text files: a line an object, its class and its box or polygon in shares of the image's sides."""

import math
from itertools import islice
from pathlib import Path
from typing import Any

from featherbone.data.images import upright_size
from featherbone.data.layouts import names_of
from featherbone.data.listing import list_files, list_images
from featherbone.data.objects import Marked, MarkedImages, Opened
from featherbone.errors import BadData, BadImage
from featherbone.files import read_yaml

LIST = "data.yaml"


class Yolo:
    """YOLO's format in the registry of formats."""

    name = "YOLO"

    def matches(self, folder: Path) -> bool:
        """Whether there is a `data.yaml`."""
        return (folder / LIST).is_file()

    def tasks(self, folder: Path) -> frozenset[str]:
        """Detection, and instance where a line among the first label files is longer than a box."""
        texts = list_files(folder, (".txt",))
        files = islice((file for file in texts if "labels" in file.relative_to(folder).parts[:-1]), 50)
        longer = any(len(line.split()) > 5 for file in files for line in file.read_text(errors="replace").splitlines())
        return frozenset(("detection", "instance") if longer else ("detection",))

    def open(self, folder: Path, split: str, unlabelled: str, check: bool) -> Opened | None:
        """As `open_yolo`."""
        return open_yolo(folder, split, unlabelled, check)


def open_yolo(data: Path, split: str, unlabelled: str, check: bool) -> Opened | None:
    """Images of a split with their objects; None where `data.yaml` names no images for it.

    An image with an empty label file shows no object; one without a file is not labelled. With `check`, `BadData` is
    raised for lines that cannot be trained on. Without it a class that is not listed is -1, and a box that is none is
    empty.
    """
    content = _read_list(data)
    names = _names(content.get("names"))
    source = next((content[name] for name in names_of(split, map(str, content)) if content.get(name)), None)
    if source is None:
        return None
    root = data / str(content.get("path") or "")
    roots = [root, data] if root.is_dir() else [data]
    paths: list[Path] = []
    missing: list[str] = []
    for part in source if isinstance(source, list) else [source]:
        there, gone = _images(roots, str(part))
        paths += there
        missing += gone
    entries: list[Marked] = []
    unlisted: list[str] = []
    for path in sorted(dict.fromkeys(paths)):
        name = path.relative_to(data).as_posix() if path.is_relative_to(data) else str(path)
        labels = label_file(path)
        if not labels.is_file() and unlabelled == "leave-out":
            unlisted.append(name)
            continue
        try:
            height, width = upright_size(path)
        except BadImage:
            height = width = 1  # it is left out as unreadable before anything is made of it
        lines = labels.read_text(encoding="utf-8", errors="replace").splitlines() if labels.is_file() else []
        marked = []
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{labels.relative_to(data) if labels.is_relative_to(data) else labels}, line {number}"
                marked.append(_annotation(line, where, height, width, len(names), check))
        entries.append(Marked(name, height, width, len(entries) + 1, tuple(marked)))
    if check and not entries:
        raise BadData(
            f"{data / LIST}: no labelled image for {split} in {source!r}; images lie in images/..., their labels "
            "under the same names in labels/..., one .txt each, empty where there is no object"
        )
    annotations = [a for entry in entries for a in entry.annotations]
    masks = all(a.get("segmentation") for a in annotations)
    images = MarkedImages(data, tuple(entries), names, tuple(range(len(names))), masks)
    return Opened(images, tuple(missing), tuple(unlisted), 0)


def label_file(image: Path) -> Path:
    """Where the labels of an image lie: under `labels` instead of the last `images`, or beside it."""
    parts = list(image.with_suffix(".txt").parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return Path(*parts)


def _read_list(data: Path) -> dict[str, Any]:
    content = read_yaml(data / LIST, str(data / LIST))
    if not isinstance(content, dict) or not content.get("names"):
        raise BadData(f"{data / LIST}: no names; write the class names, and where images lie as train and val")
    return content


def _names(names: Any) -> tuple[str, ...]:
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise BadData(f"{LIST}: classes {list(names)}; number them from 0 without gaps")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list):
        raise BadData(f"{LIST}: names {names!r}; list the class names")
    return tuple(map(str, names))


def _images(roots: list[Path], source: str) -> tuple[list[Path], list[str]]:
    """The images of a folder or of a text file that lists them, and those that are not there."""
    options = [root / part for root in roots for part in (source, source.removeprefix("../"))]
    place = next((path for path in options if path.exists()), None)
    if place is None:
        raise BadData(f"{roots[0] / LIST}: there is no {source}; give a folder, or a .txt of paths, below it")
    if place.is_dir():
        return list_images(place), []
    lines = [line.strip() for line in place.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    found = {line: next((r / line for r in (*roots, place.parent) if (r / line).is_file()), None) for line in lines}
    return [path for path in found.values() if path], [line for line, path in found.items() if not path]


def _annotation(line: str, where: str, height: int, width: int, num_classes: int, check: bool) -> dict[str, Any]:
    """One line in COCO's form, in pixels."""
    values = _numbers(line)
    shape = values[1:]
    if len(shape) == 4:
        x, y, w, h = shape
        corners = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    elif len(shape) >= 6 and len(shape) % 2 == 0:
        corners = [min(shape[::2]), min(shape[1::2]), max(shape[::2]), max(shape[1::2])]
    else:
        corners, values = [0.0] * 4, []
    label = int(values[0]) if values and values[0] in range(num_classes) else -1
    if check and not values:
        raise BadData(f"{where}: {line[:80]!r}; write class, centre x and y, width and height, or class and a polygon")
    if check and label < 0:
        raise BadData(f"{where}: class {values[0]:g} is outside 0 to {num_classes - 1}")
    if check and max(map(abs, shape)) > 2:
        raise BadData(f"{where}: {max(shape):g} is no share of the image; write shares from 0 to 1, not pixels")
    x1, y1, x2, y2 = (c * side for c, side in zip(corners, (width, height) * 2, strict=True))
    box: dict[str, Any] = {"bbox": [x1, y1, x2 - x1, y2 - y1], "label": label, "iscrowd": False}
    box["category_id"] = int(values[0]) if values else -1
    if len(shape) >= 6 and values:
        box["segmentation"] = [[c * side for c, side in zip(shape, (width, height) * (len(shape) // 2), strict=True)]]
    return box


def _numbers(line: str) -> list[float]:
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        return []
    return values if all(map(math.isfinite, values)) else []
