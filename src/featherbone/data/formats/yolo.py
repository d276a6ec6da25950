"""YOLO's folders: a list of classes and places (a YAML file, Darknet's, or class names), and a text file an image."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, permutations
from pathlib import Path
from typing import Any

from featherbone.data.findings import Finding
from featherbone.data.formats.format import Format, Opened, Reading
from featherbone.data.formats.yolo_lines import Row, may_be_keypoints, read_rows, to_annotation
from featherbone.data.layouts import SPLITS, names_of, split_folders, split_of
from featherbone.data.listing import below, is_junk, lines_of, list_folder, list_images, read_head
from featherbone.data.named_files import NamedFiles, written_parts
from featherbone.data.object_split import ObjectSplit
from featherbone.data.object_table import ObjectTable
from featherbone.errors import BadData
from featherbone.files import read_text, read_yaml

LIST = "data.yaml"
YAML = (".yaml", ".yml")
NAMES = ("classes.txt", "labels/classes.txt", "images/classes.txt", "obj.names", "classes.names")
"""Files of class names, one per line, of tools that write no list: Label Studio, labelImg, Darknet."""
MAX_CLASSES = 100_000
_PLAIN = ("images", "image", "imgs", "img", "data")
"""Folder names that do not identify a split."""


@dataclass(frozen=True)
class Listing:
    """Content of a list."""

    root: Path
    """The data folder. Only files below it are read, links included."""
    name: str
    """Name of the list in messages."""
    classes: tuple[str, ...]
    entries: Mapping[str, Sequence[str]]
    """Folders of images and files that list images, by split, as the list names them."""
    base: str = ""
    """Folder that these names start from."""
    num_keypoint_values: int | None = None
    """Values of keypoints behind a box, 0 for none; None where it is not stated."""
    notes: tuple[str, ...] = ()

    @cached_property
    def places(self) -> dict[str, tuple[Path, ...]]:
        """The entries by split; a split of which one is not found is absent."""
        found = {split: [_find(self.root, self.base, text) for text in texts] for split, texts in self.entries.items()}
        return {split: tuple(filter(None, places)) for split, places in found.items() if None not in places}


class Yolo(Format):
    """YOLO's text files; `folder` may be the `data.yaml` itself."""

    name = "YOLO"

    def tasks(self, folder: Path) -> frozenset[str]:
        """Detection where a file lists classes and images; instance where a label file has a polygon."""
        if not find_lists(folder):
            return frozenset()
        return frozenset(("detection", "instance") if has_polygons(folder) else ("detection",))

    def open(self, folder: Path, task: str, split: str, reading: Reading) -> Opened | None:
        """An image with an empty label file has no object; an image without a label file is not labelled."""
        listing = read_list(folder)
        if split not in listing.entries:
            return None
        root = listing.root
        paths, missing = _images(listing, split)
        files, unused = _label_files(root, paths)
        if all(place.is_dir() for place in listing.places[split]):
            missing += unused
        rows: dict[Path, list[Row]] = {}
        for path in paths:
            if file := files.get(path):
                rows[path] = read_rows(file, below(root, file), listing.num_keypoint_values)
            elif reading.unlabelled == "negative":
                rows[path] = []
        every = [row for of in rows.values() for row in of]
        if listing.num_keypoint_values is None and may_be_keypoints(every):
            extra = next(len(row.shape) for row in every if row.shape) - 4
            raise BadData(
                f"{listing.name}: the {split} labels have {extra + 5} values a line, which may be polygons or boxes "
                f"with {extra // 2} keypoints; write kpt_shape: [{extra // 2}, 2] for keypoints, or kpt_shape: [] for "
                "polygons"
            )
        count = len(listing.classes)
        table = ObjectTable.of(
            (
                (below(root, path), number, None, (to_annotation(row, count) for row in of))
                for number, (path, of) in enumerate(rows.items(), 1)
            ),
            relative=True,
        )
        findings = []
        if not rows:
            message = (
                f"{listing.name}: no labelled image for {split} in {', '.join(listing.entries[split])}; labels are "
                "stored under the images' names, one .txt each, in labels/... for images/... or beside the images, "
                "empty where there is no object"
            )
            findings = [Finding("error", "no-labels", message, 1)]
        return Opened(
            images=ObjectSplit(root, table, listing.classes, tuple(range(count))),
            missing=tuple(missing),
            unlisted=tuple(below(root, path) for path in paths if path not in rows),
            notes=(*listing.notes, *_notes(every)),
            findings=tuple(findings),
        )


def find_lists(data: Path) -> list[Path]:
    """The lists in a folder, or `data` itself if it is one: usually one, none where the folder is not YOLO's.

    A `data.yaml` counts whatever it holds, another YAML file if it has names and a split. Without any, Darknet's
    `*.data` count, and then names of classes with label files.
    """
    if data.is_file():
        return [data] if data.suffix.lower() in YAML else []
    files = [path for path in list_folder(data) if path.is_file()]
    lists = [path for path in files if path.suffix.lower() in YAML and (path.name.lower() == LIST or _states(path))]
    lists = lists or [path for path in files if path.suffix.lower() == ".data" and "names" in _read_darknet(path)]
    return lists or [path for name in NAMES if (path := data / name).is_file() and _has_labels(data)][:1]


def read_list(data: Path) -> Listing:
    """Read the list of a folder. Raises `BadData` for an invalid one, and where there are several."""
    lists = find_lists(data)
    if len(lists) > 1:
        names = " and ".join(path.name for path in lists[:3])
        raise BadData(f"{data}: {names} both list YOLO data; pass one of them, as --data {lists[0]}, or remove one")
    path = lists[0]
    root = path.parent if data.is_file() else data
    if path.suffix.lower() in YAML:
        return _read_yaml_list(root, path)
    if path.suffix.lower() == ".data":  # Darknet's lines `key = value`, as CVAT exports them
        content = _read_darknet(path)
        file = _find(root, "", content["names"])
        if file is None or not file.is_file():
            raise BadData(f"{path.name}: there is no {content['names']}; give the file of class names below {root}")
        given = {split: [content[key]] for split in SPLITS for key in names_of(split, content)[:1] if content[key]}
        return Listing(root, path.name, _read_names(root, file), given, num_keypoint_values=0)
    folders = {
        split: found[0]
        for split in SPLITS
        if (found := split_folders(root / "images", split) or split_folders(root, split))
    }
    folders = folders or {"train": root / "images" if (root / "images").is_dir() else root}
    given = {split: [below(root, folder)] for split, folder in folders.items()}
    return Listing(root, below(root, path), _read_names(root, path), given)


def has_polygons(data: Path) -> bool:
    """Whether one of the first label files has a polygon."""
    try:
        stated = read_list(data).num_keypoint_values
    except BadData:
        stated = None
    rows = (row for path in _first_texts(data, 50) for row in read_rows(path, "", stated))
    return any(len(row.shape) > 4 for row in rows)


def _first_texts(data: Path, count: int) -> Iterator[Path]:
    """The first text files below a folder that could hold labels."""
    texts = (data.parent if data.is_file() else data).rglob("*.[tT][xX][tT]")
    return islice((path for path in texts if not is_junk(path.name) and path.name != "classes.txt"), count)


def _read_yaml_list(root: Path, path: Path) -> Listing:
    name = path.name
    content = read_yaml(path, name)
    if not isinstance(content, dict) or not (content.get("names") or content.get("nc")):
        raise BadData(f"{path}: no names; write the class names, and where images are as train and val")
    classes, notes = _classes(name, content)
    entries = {}
    for split in SPLITS:
        key = next((key for key in names_of(split, map(str, content)) if content.get(key)), None)
        if key is not None:
            entries[split] = _texts(name, key, content[key])
    base, keypoints = str(content.get("path") or ""), _keypoint_values(name, content)
    listing = Listing(root, name, classes, entries, base, keypoints, notes)
    _check_apart(listing)
    return listing


def _read_darknet(path: Path) -> dict[str, str]:
    if path.stat().st_size > 65536:
        return {}
    pairs = (line.split("=", 1) for line in path.read_text("utf-8-sig", errors="replace").splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _read_names(root: Path, path: Path) -> tuple[str, ...]:
    name = below(root, path)
    return _distinct(name, lines_of(read_text(path, name)))


def _states(path: Path) -> bool:
    """Whether a YAML file has the keys of a YOLO list, from its first bytes."""
    text = read_head(path).decode("utf-8-sig", errors="replace")
    keys = re.findall(r"""^["']?(\w+)["']?[ \t]*:""", text, re.MULTILINE)
    return bool({"names", "nc"} & set(keys)) and any(map(split_of, keys))


def _has_labels(data: Path) -> bool:
    """Whether one of the first text files below a folder starts with a line as in label files."""
    return any(rows and not rows[0].error for path in _first_texts(data, 20) if (rows := read_rows(path, "", None)))


def _classes(name: str, content: Mapping[Any, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Class names, and what was noticed."""
    names, count = content.get("names"), content.get("nc")
    if count is not None and not re.fullmatch(r"\d{1,6}", str(count)):
        raise BadData(f"{name}: nc {str(count)[:40]!r}; write the number of classes, or remove it")
    if names is None or names == []:
        if not 0 < (num_classes := int(str(count))) <= MAX_CLASSES:
            raise BadData(f"{name}: nc {count}; write the number of classes, from 1 to {MAX_CLASSES:,}")
        made = tuple(f"class {number}" for number in range(num_classes))
        return made, (f"{name} names no classes: they are called {made[0]} to {made[-1]}",)
    if isinstance(names, dict):
        numbers = {int(key): text for key, text in names.items() if re.fullmatch(r"\d{1,6}", str(key))}
        if numbers.keys() != set(range(len(names))):
            shown = ", ".join(map(str, list(names)[:20]))
            raise BadData(f"{name}: classes {shown}; number them from 0 without gaps, as 0: {next(iter(names))}")
        names = [numbers[number] for number in range(len(numbers))]
    if not isinstance(names, list) or not all(isinstance(text, str | int | float) for text in names):
        raise BadData(f"{name}: names {str(names)[:80]!r}; list the class names")
    if count is not None and int(count) != len(names):
        raise BadData(f"{name}: nc {count}, but {len(names)} names; correct one of them")
    return _distinct(name, [str(text).strip() for text in names]), ()


def _distinct(name: str, names: Sequence[str]) -> tuple[str, ...]:
    """The names of classes. Raises `BadData` for one given twice."""
    if not names:
        raise BadData(f"{name}: no names; write the class names")
    if twice := sorted({text for text in names if names.count(text) > 1} if len(set(names)) < len(names) else ()):
        numbers = " and ".join(str(number) for number, text in enumerate(names) if text == twice[0])
        raise BadData(f"{name}: classes {numbers} are both called {twice[0]!r}; give each class a different name")
    return tuple(names)


def _texts(name: str, key: str, value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise BadData(f"{name}: {key} {str(value)[:80]!r}; give a folder, a .txt that lists images, or a list of them")
    return texts


def _keypoint_values(name: str, content: Mapping[Any, Any]) -> int | None:
    if "kpt_shape" not in content:
        return None
    shape = content["kpt_shape"]
    if shape is None or shape == []:
        return 0
    if isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) and n > 0 for n in shape):
        return int(shape[0] * shape[1])
    raise BadData(
        f"{name}: kpt_shape {str(shape)[:40]!r}; write the number of keypoints and of values each, as [17, 3]"
    )


def _find(root: Path, base: str, text: str) -> Path | None:
    r"""The folder or file below `root` that a list names by `text`, itself below `base` if that is given.

    Names that lead out of the folder, or come from another machine or system, are matched by their last parts: of
    `C:\pets\images\val` the longest tail that exists below `root`, but never `images` only.
    """
    for written in ((base, text), ("", text)):
        parts = [*written_parts(written[0]), *written_parts(written[1])]
        for first in range(len(parts)):
            plain = first == len(parts) - 1 and first > 0 and parts[first].lower() in _PLAIN
            if not plain and os.path.exists(place := root.joinpath(*parts[first:])):
                return place
    return root if text.strip("./\\ ") == "" else None


def _check_apart(listing: Listing) -> None:
    """Raise `BadData` where two splits that are named differently were found in one place, or one inside the other."""
    places = listing.places
    found = [(split, *pair) for split in places for pair in zip(listing.entries[split], places[split], strict=True)]
    for (one, text, place), (other, other_text, other_place) in permutations(found, 2):
        if one != other and text != other_text and other_place.is_relative_to(place):
            raise BadData(
                f"{listing.name}: {one} {text!r} and {other} {other_text!r} are one folder below the data folder, or "
                "one is inside the other; write separate folders, relative to the data folder"
            )


def _images(listing: Listing, split: str) -> tuple[list[Path], list[str]]:
    """The images of a split, sorted, and the names of those that are listed but not there."""
    if split not in listing.places:
        raise BadData(
            f"{listing.name}: there is no {', '.join(listing.entries[split])} in {listing.root}, and nothing outside "
            f"of it is read; put {listing.name} into the folder that holds the images, or link the images into it"
        )
    paths: dict[Path, None] = {}
    missing: list[str] = []
    for place in listing.places[split]:
        if place.is_dir():
            paths |= dict.fromkeys(list_images(place))
            continue
        name = below(listing.root, place)
        files = NamedFiles(listing.root, (place.parent, listing.root), name)
        for line in lines_of(read_text(place, name)):
            if found := files.find(line):
                paths[found] = None
            else:
                missing.append(line)
    return sorted(paths), missing


def _label_files(root: Path, paths: Sequence[Path]) -> tuple[dict[Path, Path], list[str]]:
    """The label file of each image that has one, and the names of those under `labels` that none of the images has."""
    folders = {parent: (*labels_folders(root, parent), parent) for parent in dict.fromkeys(p.parent for p in paths)}
    texts = {folder: _label_texts(folder) for among in folders.values() for folder in among}
    found: dict[Path, Path] = {}
    for path in paths:
        labels = [texts[folder][path.stem] for folder in folders[path.parent] if path.stem in texts[folder]]
        found |= {path: labels[0]} if labels else {}
    apart = {file for folder, files in texts.items() if folder not in folders for file in files.values()}
    return found, sorted(below(root, file) for file in apart - set(found.values()))


def _label_texts(folder: Path) -> dict[str, Path]:
    files = [file for file in list_folder(folder) if file.suffix.lower() == ".txt"]
    return {file.stem: file for file in files if file.name != "classes.txt"}


def labels_folders(root: Path, folder: Path) -> list[Path]:
    """Where the labels of the images in a folder may be: under `labels` instead of the last `images` below `root`."""
    parts = folder.relative_to(root).parts
    last = next((i for i in reversed(range(len(parts))) if parts[i].lower() == "images"), None)
    if last is None:
        return []
    names = dict.fromkeys(("labels", "Labels", "LABELS" if parts[last].isupper() else "labels"))
    return [root.joinpath(*parts[:last], name, *parts[last + 1 :]) for name in names]


def _notes(rows: Sequence[Row]) -> list[str]:
    """What of the rows is not read, or in which way."""
    counts = Counter(row.ignored for row in rows if row.ignored)
    notes = [
        f"{what} of {counts[what]:,} objects are not read, only their boxes or polygons" for what in sorted(counts)
    ]
    corners = [len(row.shape) // 2 for row in rows if len(row.shape) > 4]
    if corners and set(corners) == {4}:
        notes.append(
            f"{len(corners):,} objects with four corners, as rotated boxes have, are read as polygons, with the "
            "upright boxes around them"
        )
    return notes
