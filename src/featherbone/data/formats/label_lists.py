"""Images with any number of classes each: a table of labels, or metadata with lists (Hugging Face imagefolder)."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featherbone.data.findings import Finding, listed
from featherbone.data.formats.class_folders import metadata_file, read_rows
from featherbone.data.formats.format import Format, Opened, Reading, skipped_files
from featherbone.data.layouts import SPLITS, split_of
from featherbone.data.listing import SUFFIXES, below, is_file, list_names, read_head
from featherbone.data.split import FileSplit, Split, hash_listing
from featherbone.data.text_array import TextArray
from featherbone.errors import BadData

TABLE = "labels.csv"
IMAGE_COLUMNS = ("image", "file_name", "filename", "path")
LABEL_COLUMNS = ("label", "labels")
"""Names of the columns of a table."""
SEPARATORS = ";|"
"""What separates labels in a cell."""

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LabelListSplit(FileSplit[Bools]):
    """Image files with any number of classes each; the annotations of one are which classes it has (K,)."""

    root: Path
    paths: TextArray
    first: Ints
    """Where the labels of each image begin, and their number (N + 1,)."""
    labels: Ints
    """Class indices of all images, ascending in each (M,)."""
    classes: tuple[str, ...]

    def truth(self, index: int) -> Bools:
        found = np.zeros(len(self.classes), bool)
        found[self.labels[self.first[index] : self.first[index + 1]]] = True
        return found

    def shown_classes(self) -> tuple[Ints, Ints]:
        return np.repeat(np.arange(len(self)), np.diff(self.first)), self.labels

    def take(self, indices: Sequence[int]) -> Self:
        counts = np.diff(self.first)[list(indices)]
        parts = [self.labels[self.first[i] : self.first[i + 1]] for i in indices]
        labels = np.concatenate([np.zeros(0, np.int64), *parts])
        return replace(self, paths=self.paths.take(indices), first=np.append(0, counts.cumsum()), labels=labels)

    def named(self, classes: tuple[str, ...], category_ids: Sequence[int] = ()) -> "LabelListSplit":
        if classes == self.classes:
            return self
        if unknown := [name for name in self.classes if name not in classes]:
            raise BadData(
                f"class {unknown[0]!r} is none of the run's classes {listed(classes)}; pass data with the run's classes"
            )
        numbers = np.array([classes.index(name) for name in self.classes], np.int64)
        return replace(self, labels=numbers[self.labels], classes=classes)

    def matched(self, train: Split[Any]) -> "tuple[Split[Any], LabelListSplit, list[Finding]]":
        classes = tuple(dict.fromkeys((*train.classes, *self.classes)))
        return train.named(classes), self.named(classes), []

    def fingerprint(self) -> str:
        parts = (b"\0".join(self.paths.parts()), self.first.tobytes(), self.labels.tobytes())
        return hash_listing(f"{len(self)} images of {self.classes}", *parts)


class LabelLists(Format):
    """Tables and metadata with lists of labels."""

    name = "label lists"

    def tasks(self, folder: Path) -> frozenset[str]:
        found = is_table(folder / TABLE) or any(
            (file := metadata_file(folder, split)) and has_lists(file) for split in SPLITS
        )
        return frozenset(("multilabel",) if found else ())

    def open(self, folder: Path, task: str, split: str, reading: Reading) -> Opened | None:
        if not is_table(folder / TABLE):
            file = metadata_file(folder, split)
            rows = read_metadata(folder, file, split) if file is not None and has_lists(file) else {}
            return Opened(split_of_rows(folder, rows, sorted_names(rows))) if rows else None
        listing, unlisted = read_table(folder)
        rows = of_split(listing, split)
        if not rows:
            return None
        text = f"images are not listed in {TABLE}, skipped; add a row for each, with an empty label for none"
        others = [path for path in unlisted if split_in(path) == split]
        findings = skipped_files("unlisted-images", others, len(rows), text)
        return Opened(split_of_rows(folder, rows, sorted_names(listing)), findings=tuple(findings))


Rows = dict[str, list[str]]
"""The names of the classes of each image, by its path below the data folder."""


def of_split(rows: Rows, split: str) -> Rows:
    """The images of a split, which folders name; without any, all are of train."""
    if not any(map(split_in, rows)):
        return rows if split == "train" else {}
    return {path: labels for path, labels in rows.items() if split_in(path) == split}


def split_of_rows(root: Path, rows: Rows, classes: tuple[str, ...]) -> LabelListSplit:
    """The images of `rows`."""
    numbers = {name: label for label, name in enumerate(classes)}
    labels = [sorted({numbers[name] for name in names}) for names in rows.values()]
    first = np.append(0, np.cumsum([len(row) for row in labels])).astype(np.int64)
    joined = np.array([label for row in labels for label in row], np.int64)
    return LabelListSplit(root, TextArray(rows), first, joined, classes)


def sorted_names(rows: Rows) -> tuple[str, ...]:
    """The classes in order: numbers by value, names by their letters."""
    known = {name for names in rows.values() for name in names}
    return tuple(sorted(known, key=int if all(name.isdecimal() for name in known) else None))


def split_in(path: str) -> str | None:
    """The split that a folder in a path is named after."""
    return next(filter(None, map(split_of, PurePosixPath(path).parts[:-1])), None)


def is_table(file: Path) -> bool:
    """Whether a CSV file has a column of images and one of labels."""
    columns = header_of(file)
    return any(name in columns for name in IMAGE_COLUMNS) and any(name in columns for name in LABEL_COLUMNS)


def header_of(file: Path) -> list[str]:
    """The columns of a CSV file, from its first line; none where there is none."""
    head = read_head(file).decode("utf-8-sig", "replace")
    return next(csv.reader(io.StringIO(head.partition("\n")[0])), [])


def has_lists(file: Path) -> bool:
    """Whether metadata has a list of labels for each image, from its first bytes: `labels` in JSON, or a;b in CSV."""
    head = read_head(file).decode("utf-8-sig", "replace")
    if file.suffix == ".csv":
        if "labels" not in header_of(file):
            return False
        rows = csv.DictReader(io.StringIO(head, newline=""))
        cells = [row["labels"] or "" for row in rows]
        return any(cell.startswith("[") or not set(SEPARATORS).isdisjoint(cell) for cell in cells)
    try:
        row = json.loads(head.partition("\n")[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and isinstance(row.get("labels"), list)


def read_table(data: Path) -> tuple[Rows, list[str]]:
    """The labels of each image that `labels.csv` lists, by its path, and the images that it does not list.

    An image may have several rows. It is named by its path below the data folder, or by the end of it that no other
    image has.
    """
    files = list_names(data, SUFFIXES)
    places: dict[str, str | None] = {}
    for file in files:
        parts = file.split("/")
        for start in range(1, len(parts)):
            name = "/".join(parts[start:])
            places[name] = None if name in places else file
    places |= {path: path for path in files}
    found: Rows = {}
    columns = header_of(data / TABLE)
    image = next(name for name in IMAGE_COLUMNS if name in columns)
    label = next(name for name in LABEL_COLUMNS if name in columns)
    for number, row in read_rows(data / TABLE, TABLE):
        where = f"{TABLE}, line {number}"
        given = (row[image] or "").replace("\\", "/")
        if given not in places:
            raise BadData(f"{where}: there is no image {given!r}; write paths from the folder of {TABLE}")
        path = places[given]
        if path is None:
            raise BadData(f"{where}: several images are called {given!r}; write their paths from the folder of {TABLE}")
        found.setdefault(path, []).extend(names_in(row[label], where))
    if found and all(len(set(labels)) == 1 for labels in found.values()):
        raise BadData(
            f"{data}: every image in {TABLE} has one label; for one class per image write a metadata.csv with the "
            "columns file_name and label"
        )
    return found, [path for path in files if path not in found]


def read_metadata(data: Path, file: Path, split: str) -> Rows:
    """The labels of each image of a split by a metadata file; in the data folder itself, folders name the splits."""
    name = below(data, file)
    found: Rows = {}
    for number, row in read_rows(file, name):
        where = f"{name}, line {number}"
        path = row.get("file_name")
        if not isinstance(path, str) or not path or PurePosixPath(path).is_absolute() or ".." in path.split("/"):
            raise BadData(f"{where}: file_name {path!r}; write the path of an image below the folder of {file.name}")
        if not is_file(file.parent / path):
            raise BadData(
                f"{where}: there is no {path}; write paths from the folder of {file.name}, or remove the line"
            )
        found[below(data, file.parent / path)] = names_in(row.get("labels"), where)
    return of_split(found, split) if file.parent == data else found


def names_in(cell: Any, where: str) -> list[str]:
    """The labels in a cell: a list, also as JSON, or text separated by `SEPARATORS`; none in an empty one."""
    if isinstance(cell, str):
        text = cell.strip()
        if not text.startswith("["):
            for separator in SEPARATORS[1:]:
                text = text.replace(separator, SEPARATORS[0])
            return [name for part in text.split(SEPARATORS[0]) if (name := part.strip())]
        try:
            cell = json.loads(text)
        except (ValueError, RecursionError):
            raise BadData(f"{where}: labels {text[:60]!r} are no JSON list; write names separated by ;") from None
    cell = [] if cell is None else cell
    if not isinstance(cell, list) or not all(isinstance(x, str | int) and not isinstance(x, bool) for x in cell):
        raise BadData(f"{where}: labels {str(cell)[:60]}; write a list of names or numbers of classes")
    if any(isinstance(name, str) and not name.strip() for name in cell):
        raise BadData(f"{where}: a label without a name; write the names of classes, and an empty list for none")
    return [str(name) for name in cell]
