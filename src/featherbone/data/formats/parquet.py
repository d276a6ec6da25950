"""Encoded images and labels in Parquet files, as Hugging Face datasets write them."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from featherbone.data.findings import Example, Finding, finding
from featherbone.data.formats.class_folders import LabelSplit, label_column
from featherbone.data.formats.format import Format, Opened, Reading
from featherbone.data.layouts import split_of
from featherbone.data.listing import below, lines_of, list_files
from featherbone.errors import BadData
from featherbone.files import read_text

CLASSES = "classes.txt"


@dataclass(frozen=True, eq=False)
class ParquetSplit(LabelSplit):
    """Encoded images in the rows of Parquet files, mapped into memory."""

    stem: str
    """Name of the files in messages."""
    column: pa.ChunkedArray
    """Encoded images."""
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def name(self, index: int) -> str:
        return f"{self.stem} row {self.rows[index]}"

    def encoded(self, index: int) -> bytes:
        return self.column[int(self.rows[index])].as_py() or b""

    def take(self, indices: Sequence[int]) -> Self:
        return replace(self, rows=self.rows[list(indices)], labels=self.labels[list(indices)])


class Parquet(Format):
    """Parquet files."""

    name = "Parquet"
    fallback = True

    def tasks(self, folder: Path) -> frozenset[str]:
        """Classification."""
        return frozenset(("classification",) if find_parquet(folder) else ())

    def open(self, folder: Path, task: str, split: str, reading: Reading) -> Opened | None:
        files = find_parquet(folder).get(split)
        if not files:
            return None
        images = read_parquet(folder, files)
        return Opened(images, findings=tuple(_check_labels(images)))


def _check_labels(images: ParquetSplit) -> Iterator[Finding]:
    high, known = int(images.labels.max(initial=0)), len(images.classes)
    if len(images) and int(images.labels.min()) == 1:
        message = f"{images.stem}: labels run from 1 to {high}; they start at 0, so subtract 1, or name the class 0"
        yield Finding("error", "labels-shifted", message, len(images))
    outside = np.flatnonzero((images.labels < 0) | (images.labels >= known))
    if len(outside):
        message = (
            f"{images.stem}: labels run from {int(images.labels.min())} to {high}, but {known} class names allow 0 to "
            f"{known - 1}; remove the rows, or name the classes"
        )
        examples = [Example((images.name(i),), f"label {images.labels[i]}") for i in outside.tolist()]
        yield finding("error", "labels-out-of-range", message, examples)


def find_parquet(data: Path) -> dict[str, list[Path]]:
    """Parquet files by the split that their names or folders state. Raises `BadData` for those of several sets."""
    found: dict[str, list[Path]] = {}
    for file in list_files(data, (".parquet",)):
        if split := _split(file.relative_to(data)):
            found.setdefault(split, []).append(file)
    for split, files in found.items():
        if len(folders := sorted({below(data, file.parent) for file in files})) > 1:
            shown = " and ".join(folders[:3])
            raise BadData(f"{data}: Parquet files for {split} in {shown}; pass the folder of one set")
    return found


def _split(file: Path) -> str | None:
    word = re.match(r"[A-Za-z]*", file.stem)
    return split_of(word[0] if word else "") or split_of(file.parent.name)


def read_parquet(data: Path, files: list[Path]) -> ParquetSplit:
    """Images and labels of files in order. Raises `BadData` where columns, types or labels are not those of images.

    Labels are numbers, named by classes.txt or by the metadata of Hugging Face datasets, or they are text.
    """
    stem = files[0].name if len(files) == 1 else f"{files[0].name} to {files[-1].name}"
    try:
        schema = pq.read_schema(files[0])
        image, label = image_column(schema, stem), label_column(schema.names, stem)
        kind = schema.field(label).type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            raise BadData(f"{stem}: column {label} holds several labels an image; classification takes one")
        table = pa.concat_tables([pq.read_table(file, columns=[image, label], memory_map=True) for file in files])
        column = table[image]
        if pa.types.is_struct(column.type):
            column = pa.chunked_array([chunk.field("bytes") for chunk in column.chunks], pa.binary())
        if count := table[label].null_count:
            raise BadData(f"{stem}: {count} rows without a label; add the labels, or remove the rows")
        if len(column) and column.null_count == len(column):
            raise BadData(f"{stem}: no picture is in column {image}, only paths; write the files' bytes into it")
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            names, labels = np.unique(np.array(table[label].to_pylist(), object), return_inverse=True)
            return ParquetSplit(stem, column, np.arange(len(labels)), labels, tuple(names.tolist()))
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise BadData(f"{stem}: labels of type {kind}; write whole numbers or names of classes")
        labels = table[label].cast(pa.int64()).to_numpy()
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, BadData):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadData(f"{stem}: not Parquet with columns image {{bytes, path}} and label ({reason})") from None
    classes = _names(data, stem, schema, label, labels)
    return ParquetSplit(stem, column, np.arange(len(labels)), labels, classes)


def image_column(schema: pa.Schema, stem: str) -> str:
    """The column of encoded images. Raises `BadData`, which calls the file `stem`, where there is none or several."""
    structs = [f.name for f in schema if pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    plain = [f.name for f in schema if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)]
    found = structs or plain
    if "image" in found or len(found) == 1:
        return "image" if "image" in found else found[0]
    if found:
        raise BadData(f"{stem}: {' and '.join(found)} hold pictures; rename the one to classify to image")
    columns = ", ".join(f"{field.name} {field.type}" for field in schema)[:200]
    raise BadData(f"{stem}: not Parquet with columns image {{bytes, path}} and label (it has {columns})")


def _names(data: Path, stem: str, schema: pa.Schema, label: str, labels: NDArray[np.int64]) -> tuple[str, ...]:
    """Names from classes.txt, else from the metadata that Hugging Face datasets write, else the numbers."""
    if (data / CLASSES).is_file():
        return tuple(lines_of(read_text(data / CLASSES, CLASSES)))
    try:
        features: Any = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
    except (TypeError, KeyError, ValueError, RecursionError):
        pass
    largest = int(labels.max(initial=-1))
    if largest >= max(len(labels), 1):
        raise BadData(
            f"{stem}: a label of {largest:,} on one of {len(labels):,} images; number the classes from 0 without gaps, "
            f"or name them in {CLASSES}"
        )
    return tuple(str(i) for i in range(largest + 1))
