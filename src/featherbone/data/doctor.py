"""Every check on the images and labels of a classification data set, before training."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from featherbone.data.classification import LabelledImages, ParquetImages, open_split
from featherbone.data.findings import (
    MAX_EXAMPLES,
    Examination,
    Example,
    Finding,
    Picture,
    check_balance,
    check_kinds,
    check_leaks,
    check_readable,
    finding,
    grade,
    illustrate,
    look_at,
    many,
    sort_copies,
    to_jpeg,
    worst_first,
)
from featherbone.data.layouts import LAYOUTS, TRAINING_SPLITS, find_tasks, split_folders
from featherbone.data.listing import SUFFIXES, list_folder
from featherbone.data.scan import look_at_each
from featherbone.errors import BadData, BadImage

IMBALANCE = 10
"""A largest class more than so many times the smallest is a warning."""
ELONGATED = 3
"""A longer side more than so many times the shorter is a warning."""
_THUMBNAIL = 128


def examine(data: Path, input_size: int = 224) -> Examination:
    """Read every image of `data` once and tell all that is wrong; `input_size` is the network's, in pixels.

    A problem never ends the examination; only a path that holds no classification data raises `BadData`.
    """
    _refuse_other_tasks(data)
    splits: dict[str, LabelledImages] = {}
    findings: list[Finding] = []
    for split in TRAINING_SPLITS:
        try:
            opened = open_split(data, split, check=False)
        except BadData as error:
            findings.append(Finding("error", "unreadable-split", str(error), 1))
            continue
        if opened:
            splits[split], skipped = opened
            findings += _check_labels(splits[split])
            findings += _check_skipped(skipped)
    pictures = _look(splits)
    findings += _check_splits(data, splits)
    findings += _check_classes(pictures)
    findings += _check_files(pictures, input_size)
    findings += _check_copies(pictures)
    counts = {split: tuple(row) for split, row in zip(TRAINING_SPLITS, pictures.counts().tolist(), strict=True)}
    findings = worst_first(findings)
    wanted = {name for one in findings for example in one.examples for name in example.names}
    draw = partial(_draw, {name: i for i, name in enumerate(pictures.names) if name in wanted}, splits)
    return Examination(str(data), pictures.classes, counts, illustrate(findings, draw))


@dataclass(frozen=True)
class _Pictures:
    """All images of both splits, one after another."""

    classes: tuple[str, ...]
    names: list[str]
    splits: list[str]
    labels: list[int]
    looks: list[Picture | str]
    """The picture, or why it cannot be read."""

    def counts(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Readable images by split and class (2, K)."""
        counts = np.zeros((len(TRAINING_SPLITS), len(self.classes)), np.int64)
        for split, label, look in zip(self.splits, self.labels, self.looks, strict=True):
            counts[list(TRAINING_SPLITS).index(split), label] += isinstance(look, Picture)
        return counts

    def readable(self) -> Iterator[tuple[int, Picture]]:
        """Index and picture of each that can be read."""
        yield from ((index, look) for index, look in enumerate(self.looks) if isinstance(look, Picture))


def _refuse_other_tasks(data: Path) -> None:
    try:
        tasks = find_tasks(data)
    except BadData:
        if not data.is_dir():
            raise
        return  # what an unknown folder lacks becomes a finding
    if "classification" not in tasks:
        here = LAYOUTS.splitlines()[0]
        raise BadData(f"{data}: a layout for {', '.join(tasks)}; the doctor examines classification data:\n{here}")


def _look(splits: dict[str, LabelledImages]) -> _Pictures:
    indices: dict[str, int] = {name: i for i, name in enumerate(dict.fromkeys(_class_names(splits.values())))}
    found = _Pictures((), [], [], [], [])
    for split, images in splits.items():
        found.names.extend(images.name(index) for index in range(len(images)))
        found.splits.extend([split] * len(images))
        found.labels.extend(indices[_class_name(images, label)] for label in images.labels.tolist())
        found.looks.extend(look_at_each(images, partial(look_at, images), f"examining {split}"))
    return _Pictures(tuple(indices), found.names, found.splits, found.labels, found.looks)


def _class_name(images: LabelledImages, label: int) -> str:
    return images.classes[label] if 0 <= label < len(images.classes) else f"label {label}"


def _class_names(splits: Iterable[LabelledImages]) -> Iterator[str]:
    for images in splits:
        yield from images.classes
    for images in splits:
        yield from (_class_name(images, label) for label in np.unique(images.labels).tolist())


def _check_labels(images: LabelledImages) -> Iterator[Finding]:
    """Labels of Parquet rows against the class names."""
    if not isinstance(images, ParquetImages) or not len(images):
        return
    low, high, known = int(images.labels.min()), int(images.labels.max()), len(images.classes)
    if low == 1:
        message = f"{images.stem}: labels run from 1 to {high}; they start at 0, so subtract 1, or name the class 0"
        yield Finding("error", "labels-shifted", message, len(images))
    outside = np.flatnonzero((images.labels < 0) | (images.labels >= known))
    if len(outside):
        message = f"{images.stem}: labels run from {low} to {high}, but {known} class names allow 0 to {known - 1}"
        examples = [Example((images.name(i),), f"label {images.labels[i]}") for i in outside[:MAX_EXAMPLES].tolist()]
        yield Finding("error", "labels-out-of-range", message, len(outside), tuple(examples))


def _check_skipped(skipped: Sequence[str]) -> Iterator[Finding]:
    if skipped:
        message = f"{many(skipped, 'file')} in class folders not named like pictures, left out; remove or convert"
        yield finding("warning", "not-pictures", message, [Example((name,)) for name in skipped])


def _check_splits(data: Path, splits: dict[str, LabelledImages]) -> Iterator[Finding]:
    """What lies in the folders beside the classes, and whether there is anything to train and validate on."""
    folders = {split: split_folders(data, split) for split in TRAINING_SPLITS}
    for split, found in folders.items():
        for folder in found[1:]:
            message = f"{folder.name} is not used, for {found[0].name} is the {split} split; join the two or remove one"
            yield Finding("warning", "unused-folder", message, 1, (Example((folder.name,)),))
    tops = [folder for found in folders.values() for folder in found[:1]] or [data]
    loose = [path for top in tops for path in list_folder(top) if path.suffix.lower() in SUFFIXES]
    if loose:
        message = f"{many(loose, 'picture')} outside the class folders, left out; move each into that of its class"
        yield finding("warning", "no-class", message, [Example((str(file.relative_to(data)),)) for file in loose])
    if not splits.get("train"):
        message = f"no training images; the layout is\n{LAYOUTS.splitlines()[0]}"
        yield Finding("error", "no-images", message, 0)
    if not splits.get("val"):
        message = "no validation images: a share of the training images will be held out, copies of them included"
        yield Finding("note", "no-validation", message, 0)


def _check_classes(pictures: _Pictures) -> Iterator[Finding]:
    """Names and numbers of the classes."""
    classes, (train, val) = pictures.classes, pictures.counts()
    if train.any() and np.count_nonzero(train) < 2:
        message = f"training images of one class only, {classes[int(train.argmax())]}; two or more are needed"
        yield Finding("error", "one-class", message, 1)

    if empty := [Example((classes[i],)) for i in np.flatnonzero((train == 0) & (val == 0)).tolist()]:
        message = f"{many(empty, 'class', 'classes')} without a readable image; add some or remove the class"
        yield finding("error", "empty-class", message, empty)
    yield from check_balance(classes, train, val, "image", IMBALANCE)


def _check_files(pictures: _Pictures, input_size: int) -> Iterator[Finding]:
    """Each file for itself."""
    names, total = pictures.names, len(pictures.names)
    yield from check_readable(names, pictures.looks)

    def where(test: Callable[[Picture], bool]) -> list[Example]:
        return [Example((names[i],), f"{look.width} x {look.height}") for i, look in pictures.readable() if test(look)]

    if small := where(lambda picture: min(picture.width, picture.height) < input_size / 2):
        message = (
            f"{many(small, 'image')} of {total:,} with a side under half of the input's {input_size} pixels, so "
            "enlarged more than twice; use larger originals or a smaller input"
        )
        yield finding("warning", "small-images", message, small)

    def is_elongated(picture: Picture) -> bool:
        return max(picture.width, picture.height) > ELONGATED * min(picture.width, picture.height)

    if elongated := where(is_elongated):
        message = (
            f"{many(elongated, 'image')} more than {ELONGATED} times as long as wide, of which the centre crop keeps "
            "less than a third; cut out what matters"
        )
        yield finding("warning", "extreme-aspect", message, elongated)
    if rotated := where(lambda picture: picture.orientation > 1):
        message = f"{many(rotated, 'image')} stored sideways or mirrored, turned upright by the EXIF orientation"
        yield finding("note", "exif-rotated", message, rotated)
    yield from check_kinds(names, pictures.looks)


def _check_copies(pictures: _Pictures) -> Iterator[Finding]:
    """Copies under two classes, in both splits, and the rest."""
    names, splits, labels = pictures.names, pictures.splits, pictures.labels
    every = range(len(names))
    conflicts, leaks, spare = sort_copies(pictures.looks, every, splits, lambda one, i: labels[one] == labels[i])
    if conflicts:
        message = f"{many(conflicts, 'image')} also found under another class; keep the right one"
        examples = [
            Example((names[one], names[i]), f"{pictures.classes[labels[one]]} or {pictures.classes[labels[i]]}?")
            for one, i in conflicts
        ]
        yield finding(grade(len(conflicts), len(list(pictures.readable()))), "label-conflict", message, examples)
    yield from check_leaks(names, splits, leaks, spare, "class and split")


def _draw(places: dict[str, int], splits: dict[str, LabelledImages], name: str) -> bytes:
    """A small picture of the image called so, empty where there is none; its place is counted over all splits."""
    index = places.get(name, -1)
    for images in splits.values() if index >= 0 else ():
        if index < len(images):
            try:
                image = images.read(index)
            except BadImage:
                break
            image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
            return to_jpeg(image)
        index -= len(images)
    return b""
