"""Labelled images for classification: image folders and Parquet, opened alike."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from featherbone.data.class_folders import find_source, list_split
from featherbone.data.findings import (
    MAX_EXAMPLES,
    Example,
    Finding,
    check_balance,
    finding,
    listed,
    many,
    notices,
    refuse,
)
from featherbone.data.layouts import TRAINING_SPLITS, split_folders
from featherbone.data.listing import SUFFIXES, list_folder
from featherbone.data.parquet import find_parquet, read_parquet
from featherbone.data.split import FileSplit, Split
from featherbone.data.splits import settle
from featherbone.errors import BadData, did_you_mean
from featherbone.text import to_bytes

IMBALANCE = 10
"""A largest class more than so many times the smallest is a warning."""


class LabelledImages(Split[int]):
    """Images of one split, each of one class."""

    labels: np.ndarray[Any, np.dtype[np.int64]]
    """Class index of each image (N,)."""

    def __len__(self) -> int:
        return len(self.labels)

    def truth(self, index: int) -> int:
        return int(self.labels[index])

    def fingerprint(self) -> str:
        """A hash of every image's name and class."""
        rows = (f"{self.name(i)}\0{self.classes[self.labels[i]]}\n" for i in range(len(self)))
        return hashlib.sha256(to_bytes("".join(rows))).hexdigest()[:16]

    def named(self, classes: tuple[str, ...]) -> Self:
        """The same images with the labels of other `classes`, by name. Raises `BadData` for a class they lack."""
        index = {name: label for label, name in enumerate(classes)}
        if unknown := [name for name in self.classes if name not in index]:
            hint = did_you_mean(unknown[0], classes)
            raise BadData(
                f"class {unknown[0]!r} is none of the run's classes {listed(classes)}{hint}; give data with the run's"
            )
        labels = np.array([index[name] for name in self.classes], np.int64)[self.labels]
        return replace(self, labels=labels, classes=classes)  # type: ignore[type-var]  # every kind is a dataclass

    def with_classes(self, classes: tuple[str, ...]) -> Self:
        """The same with more classes, the first as before."""
        return replace(self, classes=classes)  # type: ignore[type-var]  # every kind is a dataclass


@dataclass(frozen=True, eq=False)
class FolderImages(LabelledImages, FileSplit[int]):
    """Files below a folder."""

    root: Path
    paths: tuple[str, ...]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    classes: tuple[str, ...]

    def name(self, index: int) -> str:
        return self.paths[index]

    def take(self, indices: Sequence[int]) -> "FolderImages":
        return FolderImages(self.root, tuple(self.paths[i] for i in indices), self.labels[list(indices)], self.classes)


@dataclass(frozen=True, eq=False)
class ParquetImages(LabelledImages):
    """Encoded images in the rows of Parquet files, mapped into memory."""

    stem: str
    column: pa.ChunkedArray
    rows: np.ndarray[Any, np.dtype[np.int64]]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    classes: tuple[str, ...]

    def name(self, index: int) -> str:
        return f"{self.stem} row {self.rows[index]}"

    def encoded(self, index: int) -> bytes:
        return self.column[int(self.rows[index])].as_py() or b""

    def take(self, indices: Sequence[int]) -> "ParquetImages":
        chosen = list(indices)
        return ParquetImages(self.stem, self.column, self.rows[chosen], self.labels[chosen], self.classes)


@dataclass(frozen=True)
class Splits:
    """A data set for classification: what is trained on, what is validated on, and what was noticed on opening."""

    train: LabelledImages
    val: LabelledImages
    notices: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    """What is odd about the classes, but can be trained on."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their indices."""
        return self.train.classes

    def fingerprint(self) -> str:
        """A hash of every image's name and label in both splits; the same set has the same one, wherever it lies."""
        digest = hashlib.sha256()
        for split in (self.train, self.val):
            digest.update(f"{len(split)} images\n".encode())
            for i in range(len(split)):
                digest.update(to_bytes(f"{split.name(i)}\0{split.classes[split.labels[i]]}\n"))
        return digest.hexdigest()[:16]


def open_splits(data: Path, val_share: float = 0.2, seed: int = 0) -> Splits:
    """Open image folders, metadata files or Parquet files, both splits checked against each other.

    Where there is no validation split, `val_share` of each class is held out by `seed`. Raises `BadData` for the first
    error that `inspect_classification` finds; what else it finds are notices.
    """
    splits, findings = inspect_classification(data, val_share, seed)
    refuse(findings, data)
    counted = list(check_class_counts(splits["train"].classes, *map(count_images, splits.values())))
    refuse(counted, data)
    return Splits(splits["train"], splits["val"], notices(findings), notices(counted))


def inspect_classification(
    data: Path, val_share: float = 0.2, seed: int = 0
) -> tuple[dict[str, LabelledImages], list[Finding]]:
    """The splits that training takes, as far as they can be opened, and what is wrong with them; no picture is read.

    A problem is a finding and never raises. The classes of both splits are the same.
    """
    splits: dict[str, LabelledImages] = {}
    findings: list[Finding] = []
    for split in TRAINING_SPLITS:
        known = splits["train"].classes if "train" in splits else None
        try:
            opened = open_split(data, split, known, check=False)
        except BadData as error:
            findings.append(Finding("error", "unreadable-split", str(error).removeprefix(f"{data}: "), 1))
            continue
        if opened:
            splits[split], skipped = opened
            findings += _check_labels(splits[split])
            findings += _check_skipped(skipped)
    if isinstance(splits.get("train"), FolderImages):
        findings += _check_folders(data)
    settle(splits, findings, hold_out, val_share, seed)
    train, val = splits.get("train"), splits.get("val")
    if train and val:
        splits["train"] = train.with_classes(val.classes)
    return splits, findings


def count_images(images: LabelledImages) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Images of each class (K,), those with a label outside the classes not counted."""
    labels = images.labels[(images.labels >= 0) & (images.labels < len(images.classes))]
    return np.bincount(labels, minlength=len(images.classes))


def check_class_counts(
    classes: Sequence[str], train: np.ndarray[Any, np.dtype[np.int64]], val: np.ndarray[Any, np.dtype[np.int64]]
) -> Iterator[Finding]:
    """Names of the classes, and numbers (K,) of their images in both splits."""
    if train.any() and np.count_nonzero(train) < 2:
        message = (
            f"training images of one class only, {classes[int(train.argmax())]}; two or more are needed, a folder each"
        )
        yield Finding("error", "one-class", message, 1)
    if empty := [Example((classes[i],)) for i in np.flatnonzero((train == 0) & (val == 0)).tolist()]:
        message = f"{many(empty, 'class', 'classes')} without an image that can be read; add some or remove the class"
        yield finding("error", "empty-class", message, empty)
    yield from check_balance(classes, train, val, "image", IMBALANCE, only_in_val="error")


def hold_out(images: LabelledImages, share: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Training images and, of every class, the `share` held out: at least one where a class has two, never all."""
    generator = np.random.default_rng(seed)
    held: list[int] = []
    for label in range(len(images.classes)):
        members = generator.permutation(np.flatnonzero(images.labels == label))
        held += members[: min(max(round(share * len(members)), 1), max(len(members) - 1, 0))].tolist()
    rest = np.setdiff1d(np.arange(len(images)), held)
    return images.take(rest.tolist()), images.take(sorted(held))


def open_split(
    data: Path, split: str, classes: tuple[str, ...] | None = None, check: bool = True
) -> tuple[LabelledImages, list[str]] | None:
    """Images of a split and the files left out for their names; None where `data` has no such split.

    `classes` are those of training; without them the split defines them. A folder of classes without splits is all
    training. Without `check`, labels of Parquet files may lie outside the classes, and classes that training does not
    know are added.
    """
    if files := find_parquet(data, split):
        rows = read_parquet(data, files, classes)
        images = ParquetImages(rows.stem, rows.column, np.arange(len(rows.labels)), rows.labels, rows.classes)
        if check:
            refuse(_check_labels(images), data)
        return images, []
    found = list_split(data, split)
    if found is None:
        return None
    if classes is not None and check:
        refuse_new_classes(found.classes, classes)
    known = tuple(dict.fromkeys((*(classes or ()), *found.classes)))
    index = {name: label for label, name in enumerate(known)}
    labels = np.array([index[name] for name in found.names], np.int64)
    return FolderImages(data, found.paths, labels, known), list(found.skipped)


def refuse_new_classes(found: Sequence[str], classes: tuple[str, ...]) -> None:
    """Raise `BadData` where a split has a class that training does not know."""
    for name in found:
        if name not in classes:
            hint = did_you_mean(name, classes)
            raise BadData(f"class {name!r} is none of the {len(classes)} training classes{hint}")


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
        message = (
            f"{images.stem}: labels run from {low} to {high}, but {known} class names allow 0 to {known - 1}; remove "
            "the rows, or name the classes"
        )
        examples = [Example((images.name(i),), f"label {images.labels[i]}") for i in outside[:MAX_EXAMPLES].tolist()]
        yield Finding("error", "labels-out-of-range", message, len(outside), tuple(examples))


def _check_skipped(skipped: Sequence[str]) -> Iterator[Finding]:
    if skipped:
        message = f"{many(skipped, 'file')} in class folders not named like pictures, left out; remove or convert"
        yield finding("warning", "not-pictures", message, [Example((name,)) for name in skipped])


def _check_folders(data: Path) -> Iterator[Finding]:
    """What is in the folders beside the classes."""
    folders = {split: split_folders(data, split) for split in TRAINING_SPLITS}
    for split, found in folders.items():
        for folder in found[1:]:
            message = f"{folder.name} is not used, for {found[0].name} is the {split} split; join the two or remove one"
            yield Finding("warning", "unused-folder", message, 1, (Example((folder.name,)),))
    sources = {source for split in TRAINING_SPLITS if (source := find_source(data, split)) and source.is_dir()}
    loose = [file for top in sorted(sources) for file in list_folder(top) if file.suffix.lower() in SUFFIXES]
    if loose:
        message = f"{many(loose, 'picture')} outside the class folders, left out; move each into that of its class"
        yield finding("warning", "no-class", message, [Example((str(file.relative_to(data)),)) for file in loose])
