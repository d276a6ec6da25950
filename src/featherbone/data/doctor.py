"""Every check on the images and labels of a classification data set, before training."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from featherbone.data.classification import LabelSplit, check_class_counts
from featherbone.data.dataset import inspect_data
from featherbone.data.findings import (
    Examination,
    Example,
    Finding,
    Picture,
    check_kinds,
    check_leaks,
    check_left,
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
from featherbone.data.layouts import TRAINING_SPLITS
from featherbone.data.scan import look_at_each
from featherbone.errors import BadImage

ELONGATED = 3
"""A longer side more than so many times the shorter is a warning."""
_THUMBNAIL = 128


def examine(data: Path, input_size: int = 224, val_share: float = 0.2, seed: int = 0) -> Examination:
    """Read every image of `data` once and report all that is wrong; `input_size` is the network's, in pixels.

    Images are split as training splits them with `val_share` and `seed`. A problem never ends the examination.
    """
    opened, findings = inspect_data(data, "classification", val_share, seed)
    splits = {split: images for split, images in opened.items() if isinstance(images, LabelSplit)}
    pictures = _look(splits)
    counts = pictures.counts()
    if len(splits) == len(TRAINING_SPLITS):
        findings += check_class_counts(pictures.classes, *counts)
    findings += check_left(pictures.splits, (index for index, _ in pictures.readable()))
    findings += _check_files(pictures, input_size)
    findings += _check_copies(pictures)
    findings = worst_first(findings)
    wanted = {name for one in findings for example in one.examples for name in example.names}
    draw = partial(_draw, {name: i for i, name in enumerate(pictures.names) if name in wanted}, splits)
    of_splits = {split: tuple(row) for split, row in zip(TRAINING_SPLITS, counts.tolist(), strict=True)}
    return Examination(str(data), pictures.classes, of_splits, illustrate(findings, draw))


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


def _look(splits: dict[str, LabelSplit]) -> _Pictures:
    indices: dict[str, int] = {name: i for i, name in enumerate(dict.fromkeys(_class_names(splits.values())))}
    found = _Pictures((), [], [], [], [])
    for split, images in splits.items():
        found.names.extend(images.name(index) for index in range(len(images)))
        found.splits.extend([split] * len(images))
        found.labels.extend(indices[_class_name(images, label)] for label in images.labels.tolist())
        found.looks.extend(look_at_each(images, partial(look_at, images), f"examining {split}"))
    return _Pictures(tuple(indices), found.names, found.splits, found.labels, found.looks)


def _class_name(images: LabelSplit, label: int) -> str:
    return images.classes[label] if 0 <= label < len(images.classes) else f"label {label}"


def _class_names(splits: Iterable[LabelSplit]) -> Iterator[str]:
    for images in splits:
        yield from images.classes
    for images in splits:
        yield from (_class_name(images, label) for label in np.unique(images.labels).tolist())


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


def _draw(places: dict[str, int], splits: dict[str, LabelSplit], name: str) -> bytes:
    """A small picture of the image called so, empty where there is none; its place is counted over all splits."""
    index = places.get(name, -1)
    for images in splits.values() if index >= 0 else ():
        if index < len(images):
            try:
                image = images.image(index)
            except BadImage:
                break
            image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
            return to_jpeg(image)
        index -= len(images)
    return b""
