"""Pictures whose class is their folder, or is named by a metadata file beside them (Hugging Face imagefolder)."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from featherbone.data.layouts import split_folders, split_of
from featherbone.data.listing import SUFFIXES, list_files, list_folder, list_folders
from featherbone.data.mask_folders import ENDS
from featherbone.errors import BadData
from featherbone.files import read_text
from featherbone.text import printable

METADATA = ("metadata.jsonl", "metadata.csv")
"""Files that name pictures beside them and their labels."""
LABEL_COLUMNS = ("label", "labels", "class", "fine_label", "coarse_label")
"""Names of the column of labels in metadata and Parquet files."""

_IMAGE_FOLDERS = frozenset(("images", "image", "imgs", "img", "jpegimages", "imgdir", "leftimgbit"))
_LABEL_FOLDERS = frozenset(
    (
        *("masks", "mask", "labels", "label", "annotations", "annotation", "anndir", "annotationdir", "gtfine"),
        *("groundtruth", "gt", "segmentationclass", "segmentationobject", "imagesets", "xmls", "targets", "polygons"),
    )
)


@dataclass(frozen=True)
class Listing:
    """Images of one split with their classes."""

    paths: tuple[str, ...]
    """Below the data folder."""
    names: tuple[str, ...]
    """Class of each image."""
    classes: tuple[str, ...]
    """All classes, those without an image included, sorted."""
    skipped: tuple[str, ...] = ()
    """Files that are no pictures by their names."""


def list_split(data: Path, split: str) -> Listing | None:
    """Images of a split; None where `data` has no such split. Raises `BadData` where folders are no classes."""
    source = find_source(data, split)
    if source is None:
        return None
    if source.is_file():
        return _read_metadata(data, source, split)
    paths: list[str] = []
    names: list[str] = []
    skipped: list[str] = []
    folders = _class_folders(data, source)
    for folder in folders:
        for file in list_files(folder):
            relative = file.relative_to(data).as_posix()
            if file.suffix.lower() in SUFFIXES:
                paths.append(relative)
                names.append(printable(folder.name))
            else:
                skipped.append(relative)
    _refuse_masks(data, paths)
    classes = tuple(printable(folder.name) for folder in folders)
    if twice := sorted({name for name in classes if classes.count(name) > 1}):
        raise BadData(f"{data}: two class folders are called {twice[0]}, as far as UTF-8 goes; rename one")
    return Listing(tuple(paths), tuple(names), classes, tuple(skipped))


def _refuse_masks(data: Path, paths: Sequence[str]) -> None:
    """Raise `BadData` where the images of classes have their masks beside them, as 1.png and 1_mask.png."""
    stems = {str(PurePosixPath(path).with_suffix("")) for path in paths}
    masks = [stem for stem in stems if any(stem.lower().endswith(end) and stem[: -len(end)] in stems for end in ENDS)]
    if 3 * len(masks) >= len(stems) > 0:
        raise BadData(
            f"{data}: {len(masks)} of {len(stems)} files in class folders are masks of the others, as {min(masks)}; "
            "move them away for classification, or arrange images/train, masks/train and classes.txt for segmentation"
        )


def find_source(data: Path, split: str) -> Path | None:
    """The folder that holds a folder for each class of a split, or the metadata file; None where there is none.

    Raises `BadData` where the folders are not classes by what they are called and hold, or pictures have no class.
    """
    tops = [_enter(folder, split) for folder in split_folders(data, split)]
    for top in tops:
        if found := _metadata(top):
            return found
    if found := _metadata(data):
        return found
    if split == "train" and _is_flat(data):
        return data
    top = next((top for top in tops if list_folder(top)), data)
    if top == data:
        return None
    folders = _class_folders(data, top)
    if not folders and _has_images(top):
        where = top.relative_to(data).as_posix()
        raise BadData(
            f"{data}: the pictures in {where} have no class; move each into a folder of its class, as "
            f"{where}/CLASS/NAME.jpg, or write a metadata.csv beside them with the columns file_name and label"
        )
    return top if folders else None


def _is_flat(data: Path) -> bool:
    """Whether the classes are folders of the data folder itself."""
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
    """Folders of `top` that are classes. Raises `BadData` where they are something else."""
    folders = [folder for folder in list_folders(top) if top != data or _is_class(folder)]
    names = [folder.name for folder in folders]
    where = top.relative_to(data).as_posix()
    place = "" if where == "." else f" in {where}"
    plain = {re.sub(r"[\W\d_]+", "", name.casefold()): name for name in names}
    images, labels = plain.keys() & _IMAGE_FOLDERS, plain.keys() & _LABEL_FOLDERS
    if (images and labels) or (plain and plain.keys() <= _IMAGE_FOLDERS | _LABEL_FOLDERS):
        shown = " and ".join(plain[name] for name in sorted(images | labels))
        raise BadData(
            f"{data}: {shown}{place} are pictures and labels, not classes; for semantic segmentation arrange "
            "images/train, masks/train and classes.txt, for objects write COCO's or YOLO's files, and for "
            "classification train/CLASS/*.jpg"
        )
    inner = [{folder.name for folder in list_folders(folder)} for folder in folders]
    common = set.intersection(*inner) if len(inner) > 1 else set()
    if len(common) > 1 and 2 * len(common) >= len(set.union(*inner)) and not any(map(_has_images, folders)):
        shown, below = ", ".join(names[:3]), ", ".join(sorted(common)[:3])
        if all(split_of(name) for name in common):
            remedy = f"put the splits on top, as {sorted(common)[0]}/{names[0]}"
        else:
            remedy = f"rename those that are splits to train, val and test, or take the level of {below} away"
        raise BadData(f"{data}: {shown}{place} hold the same folders, {below}, so they are not classes; {remedy}")
    return folders


def _is_class(folder: Path) -> bool:
    """Whether a folder beside class folders is one: splits are not, but a class `train` holds pictures itself."""
    split = split_of(folder.name)
    return split is None or (split == "train" and not list_folders(folder))


def _enter(folder: Path, split: str) -> Path:
    """The folder itself, or the only one in it where that is the split again or its images, as seg_train/seg_train."""
    inner = list_folders(folder)
    if len(inner) == 1 and not _has_images(folder):
        again = split_of(inner[0].name) == split or inner[0].name.casefold() in ("images", "data")
        if again and (list_folders(inner[0]) or _metadata(inner[0])):
            return _enter(inner[0], split)
    return folder


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in list_folder(folder))


def _metadata(folder: Path) -> Path | None:
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def _read_metadata(data: Path, file: Path, split: str) -> Listing | None:
    """Images of a split that a metadata file names. In the data folder itself, their folders name the splits."""
    name = file.relative_to(data).as_posix()
    labelled = [(number, *_labelled(row, f"{name}, line {number}")) for number, row in _rows(file, name)]
    splits = [split_of(PurePosixPath(path).parts[0]) for _, path, _ in labelled]
    if file.parent == data:
        if not any(splits):
            splits = ["train"] * len(splits)
        labelled = [row for row, of in zip(labelled, splits, strict=True) if of == split]
    if not labelled:
        return None
    kinds = {type(label) for _, _, label in labelled}
    if len(kinds) > 1:
        raise BadData(f"{name}: labels that are numbers and labels that are text; write names of classes for all")
    missing = [(number, path) for number, path, _ in labelled if not (file.parent / path).is_file()]
    if missing:
        number, path = missing[0]
        raise BadData(
            f"{name}, line {number}: there is no {path} ({len(missing)} of {len(labelled)} are not there); write paths "
            f"from the folder of {file.name}, or remove the lines"
        )
    found = sorted({label for _, _, label in labelled})
    paths = tuple((file.parent / path).relative_to(data).as_posix() for _, path, _ in labelled)
    return Listing(paths, tuple(str(label) for _, _, label in labelled), tuple(map(str, found)))


def _rows(file: Path, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and rows of a metadata file."""
    text = read_text(file, name)
    if file.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise BadData(f"{name}, line {reader.line_num}: not CSV ({error}); write it anew") from None
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
    """Path and label of a row of metadata."""
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
        raise BadData(f"{where}: {' and '.join(found)} may be the label; rename the one to train for to label")
    return found[0]
