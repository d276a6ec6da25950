"""Images in class folders, or with a metadata file of their classes (Hugging Face imagefolder)."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featherbone.data.findings import Example, Finding, finding, listed, report
from featherbone.data.formats.format import Format, Opened, Reading
from featherbone.data.formats.masks import ENDS
from featherbone.data.layouts import SPLITS, TRAINING_SPLITS, split_folders, split_of
from featherbone.data.listing import below, is_file, is_image, list_folder, list_folders, list_names
from featherbone.data.split import FileSplit, Split
from featherbone.data.text_array import TextArray
from featherbone.errors import BadData, did_you_mean
from featherbone.files import read_text
from featherbone.text import printable, to_bytes

METADATA = ("metadata.jsonl", "metadata.csv")
"""Files that list images and their labels."""
LABEL_COLUMNS = ("label", "labels", "class", "fine_label", "coarse_label")
"""Names of the column of labels in metadata and Parquet files."""

_IMAGE_FOLDERS = frozenset(("images", "image", "imgs", "img", "jpegimages", "imgdir", "leftimgbit"))
_LABEL_FOLDERS = frozenset(
    (
        *("masks", "mask", "labels", "label", "annotations", "annotation", "anndir", "annotationdir", "gtfine"),
        *("groundtruth", "gt", "segmentationclass", "segmentationobject", "imagesets", "xmls", "targets", "polygons"),
    )
)


class LabelSplit(Split[int]):
    """Images of one split, each of one class."""

    labels: NDArray[np.int64]
    """Class index of each image (N,); outside of 0 to K - 1 where a file holds such a number."""

    def __len__(self) -> int:
        return len(self.labels)

    def truth(self, index: int) -> int:
        return int(self.labels[index])

    def shown_classes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.arange(len(self)), self.labels

    def groups(self) -> Sequence[NDArray[np.int64]]:
        return [np.flatnonzero(self.labels == label) for label in range(len(self.classes))]

    def fingerprint(self) -> str:
        return sha256(self._rows()).hexdigest()[:16]

    def joint_fingerprint(self, val: Split[Any]) -> str:
        assert isinstance(val, LabelSplit), "both splits are read by one format"
        parts = [f"{len(split)} images\n".encode() + split._rows() for split in (self, val)]
        return sha256(b"".join(parts)).hexdigest()[:16]

    def _rows(self) -> bytes:
        """Name and class of every image."""
        ends = [to_bytes(f"\0{name}\n") for name in self.classes]
        return b"".join(name + ends[label] for name, label in zip(self._names(), self.labels.tolist(), strict=True))

    def _names(self) -> Iterator[bytes]:
        return (to_bytes(self.name(index)) for index in range(len(self)))

    def renamed(self, names: Mapping[str, str]) -> Self:
        classes = tuple(names.get(name, name) for name in self.classes)
        return replace(self, classes=classes)  # type: ignore[type-var]  # every kind is a dataclass

    def named(self, classes: tuple[str, ...], category_ids: Sequence[int] = ()) -> Self:
        if classes == self.classes:
            return self
        if unknown := [name for name in self.classes if name not in classes]:
            hint = did_you_mean(unknown[0], classes)
            raise BadData(
                f"class {unknown[0]!r} is none of the run's classes {listed(classes)}{hint}; pass data with the run's "
                "classes"
            )
        known = (self.labels >= 0) & (self.labels < len(self.classes))
        table = np.array([classes.index(name) for name in self.classes], np.int64)
        labels = np.where(known, table[self.labels * known] if len(table) else 0, len(classes))
        return replace(self, labels=labels, classes=classes)  # type: ignore[type-var]  # every kind is a dataclass

    def matched(self, train: Split[Any]) -> tuple[Split[Any], Self, list[Finding]]:
        classes = tuple(dict.fromkeys((*train.classes, *self.classes)))
        assert isinstance(train, LabelSplit), "both splits are read by one format"
        return train.named(classes), self.named(classes), []


def check_labels(images: LabelSplit, stem: str) -> Iterator[Finding]:
    """Numbers of classes in files, `stem` in messages, that are shifted or have no class."""
    high, known = int(images.labels.max(initial=0)), len(images.classes)
    if len(images) and int(images.labels.min()) == 1:
        message = f"{stem}: labels run from 1 to {high}; they start at 0, so subtract 1, or name the class 0"
        yield Finding("error", "labels-shifted", message, len(images))
    outside = np.flatnonzero((images.labels < 0) | (images.labels >= known))
    if len(outside):
        message = (
            f"{stem}: labels run from {int(images.labels.min())} to {high}, but {known} class names allow 0 to "
            f"{known - 1}; remove the rows, or name the classes"
        )
        examples = [Example((images.name(i),), f"label {images.labels[i]}") for i in outside.tolist()]
        yield finding("error", "labels-out-of-range", message, examples)


def number_classes(labels: NDArray[np.int64], stem: str) -> tuple[str, ...]:
    """Names for classes that files, `stem` in messages, only number. Raises `BadData` for numbers with large gaps."""
    largest = int(labels.max(initial=-1))
    if largest >= max(len(labels), 1):
        raise BadData(
            f"{stem}: a label of {largest:,} on one of {len(labels):,} images; number the classes from 0 without gaps, "
            "or name them in classes.txt"
        )
    return tuple(str(i) for i in range(largest + 1))


@dataclass(frozen=True, eq=False)
class FolderSplit(LabelSplit, FileSplit[int]):
    """Image files of one class each."""

    root: Path
    paths: TextArray
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def take(self, indices: Sequence[int]) -> Self:
        return replace(self, paths=self.paths.take(indices), labels=self.labels[list(indices)])

    def _names(self) -> Iterator[bytes]:
        return self.paths.parts()


class ClassFolders(Format):
    """Class folders and metadata files."""

    name = "class folders"
    fallback = True

    def tasks(self, folder: Path) -> frozenset[str]:
        """Classification. Raises `BadData` where folders look like classes but are not."""
        found = any(find_source(folder, split) for split in SPLITS)
        return frozenset(("classification",) if found else ())

    def open(self, folder: Path, task: str, split: str, reading: Reading) -> Opened | None:
        source = find_source(folder, split)
        if source is None:
            return None
        if source.is_file():
            rows = _read_metadata(folder, source, split)
            return Opened(_split(folder, rows, sorted({label for _, label in rows}))) if rows else None
        folders = _class_folders(folder, source)
        classes = [printable(one.name) for one in folders]
        rows, skipped = [], []
        for one, name in zip(folders, classes, strict=True):
            start = below(folder, one)
            for file in list_names(one):
                path = f"{start}/{file}"
                if is_image(file):
                    rows.append((path, name))
                else:
                    skipped.append(Example((path,)))
        _refuse_masks(folder, [path for path, _ in rows])
        if twice := sorted({name for name in classes if classes.count(name) > 1}):
            raise BadData(f"{folder}: two class folders are called {twice[0]} in UTF-8; rename one")
        text = "in class folders not named like pictures, skipped; remove or convert them"
        findings = report("warning", "not-pictures", skipped, "file", text)
        return Opened(_split(folder, rows, classes), findings=(*findings, *_check_places(folder, split, source)))


def _split(root: Path, rows: Sequence[tuple[str, str | int]], classes: Sequence[str | int]) -> FolderSplit:
    numbers = {name: label for label, name in enumerate(classes)}
    labels = np.array([numbers[name] for _, name in rows], np.int64)
    return FolderSplit(root, TextArray(path for path, _ in rows), labels, tuple(map(str, classes)))


def _check_places(data: Path, split: str, source: Path) -> Iterator[Finding]:
    """Folders and pictures beside the class folders of a split."""
    first, *others = split_folders(data, split) or [source]
    for folder in others if split in TRAINING_SPLITS else ():
        message = f"{folder.name} is not used, because {first.name} is the {split} split; join the two or remove one"
        yield Finding("warning", "unused-folder", message, 1, (Example((folder.name,)),))
    loose = [Example((str(file.relative_to(data)),)) for file in list_folder(source) if is_image(file)]
    text = "outside the class folders, skipped; move each into that of its class"
    yield from report("warning", "no-class", loose, "picture", text)


def _refuse_masks(data: Path, paths: Sequence[str]) -> None:
    """Raise `BadData` where the images of classes have their masks beside them, as 1.png and 1_mask.png."""
    ending = {stem for path in paths if (stem := path[: path.rfind(".")]).lower().endswith(ENDS)}
    stems = {path.rpartition(".")[0] for path in paths} if ending else set[str]()
    masks = [stem for stem in ending if any(stem.lower().endswith(end) and stem[: -len(end)] in stems for end in ENDS)]
    if 3 * len(masks) >= len(stems) > 0:
        raise BadData(
            f"{data}: {len(masks)} of {len(stems)} files in class folders are masks of the others, as {min(masks)}; "
            "move them away for classification, or arrange images/train, masks/train and classes.txt for segmentation"
        )


def find_source(data: Path, split: str) -> Path | None:
    """The folder that holds a folder for each class of a split, or the metadata file; None where there is none.

    Raises `BadData` where folders are not classes by their names and contents, or images have no class.
    """
    if found := metadata_file(data, split):
        return found
    if split == "train" and _is_flat(data):
        return data
    top = next(filter(list_folder, _tops(data, split)), None)
    if top is None:
        return None
    folders = _class_folders(data, top)
    if not folders and _has_images(top):
        where = below(data, top)
        raise BadData(
            f"{data}: the pictures in {where} have no class; move each into a folder of its class, as "
            f"{where}/CLASS/NAME.jpg, or write a metadata.csv beside them with the columns file_name and label"
        )
    return top if folders else None


def metadata_file(data: Path, split: str) -> Path | None:
    """The metadata file of a split, in its folder or for all in the data folder; None where there is none."""
    return next(filter(None, map(_metadata, (*_tops(data, split), data))), None)


def _tops(data: Path, split: str) -> list[Path]:
    """The folders of a split."""
    return [_enter(folder, split) for folder in split_folders(data, split)]


def _is_flat(data: Path) -> bool:
    """Whether the class folders are directly in the data folder."""
    train = split_folders(data, "train")
    if train and (list_folders(train[0]) or not _has_images(train[0])):
        return False
    others = [folder for folder in list_folders(data) if split_of(folder.name) is None]
    if not others or (train and not any(map(_has_images, others))):
        return False
    if len(others) == 1 and list_folders(others[0]) and not _has_images(others[0]):  # a folder around the whole
        return False
    _class_folders(data, data)
    return True


def _class_folders(data: Path, top: Path) -> list[Path]:
    """The class folders of `top`. Raises `BadData` where the folders are something else."""
    folders = [folder for folder in list_folders(top) if top != data or _is_class(folder)]
    names = [folder.name for folder in folders]
    where = below(data, top)
    place = "" if where == "." else f" in {where}"
    plain = {re.sub(r"[\W\d_]+", "", name.casefold()): name for name in names}
    images, labels = plain.keys() & _IMAGE_FOLDERS, plain.keys() & _LABEL_FOLDERS
    if (images and labels) or (plain and plain.keys() <= _IMAGE_FOLDERS | _LABEL_FOLDERS):
        shown = " and ".join(plain[name] for name in sorted(images | labels))
        raise BadData(
            f"{data}: {shown}{place} hold images and labels, not classes; for semantic segmentation arrange "
            "images/train, masks/train and classes.txt, for objects write COCO's or YOLO's files, and for "
            "classification train/CLASS/*.jpg"
        )
    nested = len(folders) > 1 and list_folders(folders[0])  # else no subfolder is common, and the others are not listed
    inner = [{folder.name for folder in list_folders(folder)} for folder in folders] if nested else [set[str]()]
    common = set.intersection(*inner)
    if len(common) > 1 and 2 * len(common) >= len(set.union(*inner)) and not any(map(_has_images, folders)):
        shown, inside = ", ".join(names[:3]), ", ".join(sorted(common)[:3])
        if all(split_of(name) for name in common):
            remedy = f"put the splits on top, as {sorted(common)[0]}/{names[0]}"
        else:
            remedy = f"rename those that are splits to train, val and test, or remove the level of {inside}"
        raise BadData(f"{data}: {shown}{place} have the same subfolders, {inside}, so they are not classes; {remedy}")
    return folders


def _is_class(folder: Path) -> bool:
    """Whether a folder is a class and not a split: a class `train` holds images itself."""
    split = split_of(folder.name)
    return split is None or (split == "train" and not list_folders(folder))


def _enter(folder: Path, split: str) -> Path:
    """The folder, or its only subfolder where that repeats the split or holds its images, as seg_train/seg_train."""
    inner = list_folders(folder)
    if len(inner) == 1 and not _has_images(folder):
        again = split_of(inner[0].name) == split or inner[0].name.casefold() in ("images", "data")
        if again and (list_folders(inner[0]) or _metadata(inner[0])):
            return _enter(inner[0], split)
    return folder


def _has_images(folder: Path) -> bool:
    return any(map(is_image, list_folder(folder)))


def _metadata(folder: Path) -> Path | None:
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def _read_metadata(data: Path, file: Path, split: str) -> list[tuple[str, str | int]]:
    """Paths and labels of a split by a metadata file. In the data folder itself, their folders name the splits."""
    name = below(data, file)
    rows = [(number, *_labelled(row, f"{name}, line {number}")) for number, row in read_rows(file, name)]
    splits = [split_of(PurePosixPath(path).parts[0]) for _, path, _ in rows]
    if file.parent == data:
        if not any(splits):
            splits = ["train"] * len(splits)
        rows = [row for row, of in zip(rows, splits, strict=True) if of == split]
    if len({type(label) for _, _, label in rows}) > 1:
        raise BadData(f"{name}: labels that are numbers and labels that are text; write class names for all")
    if missing := [(number, path) for number, path, _ in rows if not is_file(file.parent / path)]:
        number, path = missing[0]
        raise BadData(
            f"{name}, line {number}: there is no {path} ({len(missing)} of {len(rows)} do not exist); write paths "
            f"from the folder of {file.name}, or remove the lines"
        )
    return [(below(data, file.parent / path), label) for _, path, label in rows]


def read_rows(file: Path, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and values of each line of a metadata file, which messages call `name`. Raises `BadData`."""
    text = read_text(file, name)
    if file.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise BadData(f"{name}, line {reader.line_num}: not CSV ({error}); write it again") from None
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise BadData(f"{name}, line {number}: not JSON ({error}); write one object a line") from None
            if not isinstance(row, dict):
                raise BadData(f"{name}, line {number}: {line[:60]!r}; write an object with file_name and label")
            yield number, row


def _labelled(row: dict[str, Any], where: str) -> tuple[str, str | int]:
    path = row.get("file_name")
    if not isinstance(path, str) or not path:
        raise BadData(f"{where}: no file_name; the columns are file_name and label")
    path = path.replace("\\", "/")
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\0" in path:
        raise BadData(f"{where}: file_name {path!r} leads out of the folder; write paths below it")
    if "objects" in row:
        raise BadData(f"{where}: objects with boxes, which are not read in this form; convert them to COCO's or YOLO's")
    label = row[label_column(list(row), where)]
    if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
        raise BadData(f"{where}: label {label!r}; write the name or the number of one class")
    return path, label


def label_column(columns: Sequence[str], where: str) -> str:
    """The column of labels among `columns`. Raises `BadData` where there is none, or several that may be meant."""
    found = [name for name in LABEL_COLUMNS if name in columns]
    if not found:
        raise BadData(f"{where}: no label among the columns {', '.join(map(str, columns))}; add one called label")
    if len(found) > 1 and found[0] != "label":
        raise BadData(f"{where}: {' and '.join(found)} may be the label; rename the one to train on to label")
    return found[0]
