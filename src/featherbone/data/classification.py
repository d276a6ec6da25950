"""Labelled images for classification: image folders and Parquet, opened alike."""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from featherbone.data.images import read_file, read_image
from featherbone.data.layouts import LAYOUTS, SPLITS, split_folders, split_of
from featherbone.data.listing import SUFFIXES, list_files, list_folders
from featherbone.errors import BadData, did_you_mean


class LabelledImages(ABC):
    """Images of one split, each of one class."""

    classes: tuple[str, ...]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    """Class index of each image (N,)."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def name(self, index: int) -> str:
        """What messages call the image: its path below the data folder."""

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """The image's file as it lies on disk. Raises `OSError`."""

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """The image in RGB, upright. Raises `BadImage`."""

    @abstractmethod
    def take(self, indices: Sequence[int]) -> "LabelledImages":
        """Only the images of `indices`, in that order."""


@dataclass(frozen=True, eq=False)
class FolderImages(LabelledImages):
    """Files below a folder."""

    root: Path
    paths: tuple[str, ...]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    classes: tuple[str, ...]

    def name(self, index: int) -> str:
        return self.paths[index]

    def encoded(self, index: int) -> bytes:
        return read_file(self.root / self.paths[index], self.paths[index])

    def read(self, index: int) -> Image.Image:
        return read_image(self.root / self.paths[index], self.paths[index])

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

    def read(self, index: int) -> Image.Image:
        return read_image(self.encoded(index), self.name(index))

    def take(self, indices: Sequence[int]) -> "ParquetImages":
        chosen = list(indices)
        return ParquetImages(self.stem, self.column, self.rows[chosen], self.labels[chosen], self.classes)


@dataclass(frozen=True)
class Splits:
    """A data set for classification: what is trained on, what is validated on, and what was noticed on opening."""

    train: LabelledImages
    val: LabelledImages
    notices: tuple[str, ...]

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
                digest.update(f"{split.name(i)}\0{split.classes[split.labels[i]]}\n".encode())
        return digest.hexdigest()[:16]


def open_splits(data: Path, val_share: float = 0.2, seed: int = 0) -> Splits:
    """Open an image folder or Parquet files, both splits checked against each other.

    Where there is no validation split, `val_share` of each class is held out by `seed`. Raises `BadData` for what
    would spoil training: no images, fewer than two classes, an empty class, a class that only validation knows.
    """
    train = open_split(data, "train")
    notices: list[str] = []
    if train is None:
        raise BadData(f"{data}: no images found; classification takes these layouts:\n{LAYOUTS.splitlines()[0]}")
    images, skipped = train
    val = open_split(data, "val", images.classes)
    if val is None:
        images, held_out = hold_out(images, val_share, seed)
        notices.append(f"no validation split: held out {len(held_out)} of {len(held_out) + len(images)} images")
    else:
        held_out, more = val
        skipped += more
    if skipped:
        notices.append(f"{len(skipped)} files are no pictures by their names and were left out: {listed(skipped)}")
    check_classes(images)
    missing = [name for i, name in enumerate(images.classes) if i not in held_out.labels]
    if missing:
        notices.append(
            f"{len(missing)} classes have no validation image, so nothing is known of them: {listed(missing)}"
        )
    return Splits(images, held_out, tuple(notices))


def check_classes(images: LabelledImages) -> None:
    """Raise `BadData` unless there are two classes and none is empty."""
    if len(images.classes) < 2:
        raise BadData(f"one class only ({', '.join(images.classes)}); classification needs two or more class folders")
    counts = np.bincount(images.labels, minlength=len(images.classes))
    empty = [name for name, count in zip(images.classes, counts, strict=True) if not count]
    if empty:
        raise BadData(f"no training image in class {listed(empty)}; add some or remove the class")


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def hold_out(images: LabelledImages, share: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Training images and, of every class, the `share` held out: at least one where a class has two, never all."""
    generator = np.random.default_rng(seed)
    held: list[int] = []
    for label in range(len(images.classes)):
        members = generator.permutation(np.flatnonzero(images.labels == label))
        held += members[: min(max(round(share * len(members)), 1), len(members) - 1)].tolist()
    rest = np.setdiff1d(np.arange(len(images)), held)
    return images.take(rest.tolist()), images.take(sorted(held))


def open_split(
    data: Path, split: str, classes: tuple[str, ...] | None = None, check: bool = True
) -> tuple[LabelledImages, list[str]] | None:
    """Images of a split and the files left out for their names; None where `data` has no such split.

    `classes` are those of training; without them the split defines them. A folder of classes without splits is all
    training. Without `check`, labels of Parquet files may lie outside the classes.
    """
    parquet = [file for file in list_files(data, (".parquet",)) if _parquet_split(file.relative_to(data)) == split]
    if parquet:
        return _open_parquet(data, parquet, classes, check), []
    if folders := split_folders(data, split):
        return _open_folder(data, folders[0], classes)
    if split == "train" and not any(split_folders(data, other) for other in SPLITS):
        return _open_folder(data, data, classes)
    return None


def _parquet_split(file: Path) -> str | None:
    """The split that a Parquet file holds, by the first word of its name, or by the folder it is in."""
    word = re.match(r"[A-Za-z]*", file.stem)
    return split_of(word[0] if word else "") or split_of(file.parent.name)


def _open_folder(data: Path, folder: Path, classes: tuple[str, ...] | None) -> tuple[FolderImages, list[str]] | None:
    found = tuple(path.name for path in list_folders(folder))
    if not found:
        return None
    if classes is not None:
        refuse_new_classes(found, classes)
    classes = classes or found
    paths: list[str] = []
    labels: list[int] = []
    skipped: list[str] = []
    for name in found:
        for file in list_files(folder / name):
            relative = file.relative_to(data).as_posix()
            if file.suffix.lower() in SUFFIXES:
                paths.append(relative)
                labels.append(classes.index(name))
            else:
                skipped.append(relative)
    return FolderImages(data, tuple(paths), np.array(labels, dtype=np.int64), classes), skipped


def refuse_new_classes(found: Sequence[str], classes: tuple[str, ...]) -> None:
    """Raise `BadData` where validation has a class that training does not know."""
    for name in found:
        if name not in classes:
            hint = did_you_mean(name, classes)
            raise BadData(f"validation class {name!r} is none of the {len(classes)} training classes{hint}")


def _open_parquet(data: Path, files: list[Path], classes: tuple[str, ...] | None, check: bool) -> ParquetImages:
    stem = files[0].name if len(files) == 1 else f"{files[0].name} to {files[-1].name}"
    try:
        table = pa.concat_tables([pq.read_table(file, memory_map=True) for file in files])
        column = pa.chunked_array([chunk.field("bytes") for chunk in table["image"].chunks], pa.binary())
        labels = table["label"].cast(pa.int64()).to_numpy()
        if table["label"].null_count:
            raise ValueError(f"{table['label'].null_count} rows without a label")
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadData(f"{stem}: not Parquet with columns image {{bytes, path}} and label ({reason})") from None
    names = classes or _parquet_classes(data, table, labels)
    if check and len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
        span = f"{labels.min()} to {labels.max()}"
        raise BadData(f"{stem}: labels run from {span}, but there are {len(names)} class names; labels start at 0")
    return ParquetImages(stem, column, np.arange(len(labels)), labels, names)


def _parquet_classes(data: Path, table: pa.Table, labels: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[str, ...]:
    """Names from classes.txt, else from the metadata that Hugging Face datasets write, else the numbers."""
    if (data / "classes.txt").is_file():
        lines = (data / "classes.txt").read_text(encoding="utf-8").splitlines()
        return tuple(line.strip() for line in lines if line.strip())
    try:
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        return tuple(features["label"]["names"])
    except (TypeError, KeyError, ValueError):
        return tuple(str(i) for i in range(int(labels.max(initial=0)) + 1))
