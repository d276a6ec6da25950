"""Encoded images and labels in Parquet files, as Hugging Face datasets write them."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from featherbone.data.formats.class_folders import LabelSplit, check_labels, label_column, number_classes
from featherbone.data.formats.format import Format, Opened, Reading
from featherbone.data.layouts import find_shards
from featherbone.data.listing import lines_of
from featherbone.data.place import open_below, reason_of, text_below
from featherbone.data.sampling import WINDOW
from featherbone.errors import BadData, BadImage

CLASSES = "classes.txt"
COLUMNS = "columns image {bytes, path} and label"
OPENING = 16
"""Files that are opened at once: at a URL, each waits for some requests."""


@dataclass(frozen=True, eq=False)
class RowGroups:
    """The row groups of Parquet files, whose images are read when they are needed."""

    root: Path
    files: tuple[str, ...]
    """Below `root`."""
    metadata: tuple[pq.FileMetaData, ...]
    columns: tuple[str, ...]
    """The column of encoded images in each file."""
    groups: NDArray[np.int64]
    """File, and number in it, of each row group (G, 2)."""
    first: NDArray[np.int64]
    """Row group g holds the rows `first[g]` to `first[g + 1]` (G + 1,)."""
    held: dict[int, pa.ChunkedArray] = field(default_factory=dict)
    """The images of the row groups that were read last, of up to `WINDOW` rows or of one row group."""

    def of_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row group of each row."""
        return np.searchsorted(self.first, rows, "right") - 1

    def image(self, row: int) -> bytes:
        """The encoded image of a row; empty where there is none. Raises `OSError` or an error of Arrow."""
        group = int(np.searchsorted(self.first, row, "right")) - 1
        images = self.held.get(group)
        if images is None:
            images = self._read(group)
            rows = len(images)
            for other, content in reversed([*self.held.items()]):
                rows += len(content)
                if rows > WINDOW:
                    self.held.pop(other, None)
            self.held[group] = images
        return images[row - int(self.first[group])].as_py() or b""

    def _read(self, group: int) -> pa.ChunkedArray:
        at, number = self.groups[group].tolist()
        file = pq.ParquetFile(open_below(self.root, self.files[at]), metadata=self.metadata[at])
        images = file.read_row_group(number, columns=[self.columns[at]])[0]
        if pa.types.is_struct(images.type):
            images = pa.chunked_array([chunk.field("bytes") for chunk in images.chunks], pa.binary())
        if len(images) != self.first[group + 1] - self.first[group]:
            raise OSError("other rows than the file states")
        return images


@dataclass(frozen=True, eq=False)
class ParquetSplit(LabelSplit):
    """Encoded images in the rows of Parquet files."""

    stem: str
    """Name of the files in messages."""
    row_groups: RowGroups
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def name(self, index: int) -> str:
        return f"{self.stem} row {self.rows[index]}"

    def encoded(self, index: int) -> bytes:
        try:
            return self.row_groups.image(int(self.rows[index]))
        except (pa.ArrowException, OSError) as error:
            raise BadImage(
                f"{self.name(index)}: cannot be read ({reason_of(error)}); replace the file, or check your access"
            ) from None

    def blocks(self) -> NDArray[np.int64]:
        return self.row_groups.of_rows(self.rows)

    def take(self, indices: Sequence[int]) -> Self:
        return replace(self, rows=self.rows[list(indices)], labels=self.labels[list(indices)])


class Parquet(Format):
    """Parquet files."""

    name = "Parquet"
    fallback = True
    is_streamed = True

    def tasks(self, folder: Path) -> frozenset[str]:
        """Classification."""
        return frozenset(("classification",) if _find(folder) else ())

    def open(self, folder: Path, task: str, split: str, reading: Reading) -> Opened | None:
        files = _find(folder).get(split)
        if not files:
            return None
        images = read_parquet(folder, files)
        return Opened(images, findings=tuple(check_labels(images, images.stem)))


def _find(data: Path) -> dict[str, list[str]]:
    return find_shards(data, ".parquet", "Parquet files")


def read_parquet(data: Path, files: Sequence[str]) -> ParquetSplit:
    """Images and labels of files in order, of which no image is read.

    Labels are numbers, named by classes.txt or by the metadata of Hugging Face datasets, or they are text. Raises
    `BadData` where columns, types or labels are not those of images.
    """
    names = [name.rpartition("/")[2] for name in files]
    stem = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    with ThreadPoolExecutor(OPENING) as pool:
        opened = list(pool.map(lambda name: _open(data, name), files))
    first = opened[0]
    kind, label = first.labels.type, first.label
    try:
        column = pa.chunked_array([chunk for one in opened for chunk in one.labels.chunks], kind)
        if column.null_count:
            raise BadData(f"{stem}: {column.null_count} rows without a label; add the labels, or remove the rows")
        if len(column) and all(one.num_images == 0 for one in opened):
            raise BadData(f"{stem}: no picture is in column {first.image}, only paths; write the files' bytes into it")
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            found, labels = np.unique(np.array(column.to_pylist(), object), return_inverse=True)
            classes = tuple(found.tolist())
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
            labels = column.cast(pa.int64()).to_numpy()
            classes = _names(data, stem, first.schema, label, labels)
        else:
            raise BadData(f"{stem}: labels of type {kind}; write whole numbers or names of classes")
    except (pa.ArrowException, TypeError, ValueError) as error:
        if isinstance(error, BadData):
            raise
        raise BadData(f"{stem}: not Parquet with {COLUMNS} ({reason_of(error)}); write the files again") from None
    groups = [
        (at, number, one.metadata.row_group(number).num_rows)
        for at, one in enumerate(opened)
        for number in range(one.metadata.num_row_groups)
    ]
    table = np.array(groups, np.int64).reshape(-1, 3)
    row_groups = RowGroups(
        root=data,
        files=tuple(files),
        metadata=tuple(one.metadata for one in opened),
        columns=tuple(one.column for one in opened),
        groups=table[:, :2],
        first=np.concatenate((np.zeros(1, np.int64), table[:, 2].cumsum())),
    )
    return ParquetSplit(stem, row_groups, np.arange(len(labels)), labels, classes)


class _File(NamedTuple):
    """A file without its images."""

    metadata: pq.FileMetaData
    schema: pa.Schema
    image: str
    """The column of images."""
    column: str
    """The part of it that holds the encoded images."""
    num_images: int | None
    """Images that it states to hold; None where it does not."""
    label: str
    labels: pa.ChunkedArray


def _open(data: Path, name: str) -> _File:
    """What a file states of itself, and its labels. Raises `BadData`."""
    try:
        file = pq.ParquetFile(open_below(data, name))
        schema, groups = file.schema_arrow, [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        image, label = image_column(schema, name), label_column(schema.names, name)
        kind = schema.field(label).type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            raise BadData(f"{name}: column {label} holds several labels an image; classification takes one")
        labels = file.read(columns=[label])[label]
        if len(labels) != sum(group.num_rows for group in groups):
            raise ValueError("other rows than it states")
        column = f"{image}.bytes" if pa.types.is_struct(schema.field(image).type) else image
        place = [file.schema.column(i).path for i in range(len(file.schema.names))].index(column)
        statistics = [group.column(place).statistics for group in groups]
        stated = all(one is not None and one.has_null_count for one in statistics)
        num_images = len(labels) - sum(one.null_count for one in statistics) if stated else None
        return _File(file.metadata, schema, image, column, num_images, label, labels)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, BadData):
            raise
        raise BadData(
            f"{name}: not Parquet with {COLUMNS}, or cannot be read ({reason_of(error)}); replace the file, or check "
            "your access"
        ) from None


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
    raise BadData(f"{stem}: not Parquet with {COLUMNS} (it has {columns})")


def _names(data: Path, stem: str, schema: pa.Schema, label: str, labels: NDArray[np.int64]) -> tuple[str, ...]:
    """Names from classes.txt, else from the metadata that Hugging Face datasets write, else the numbers."""
    if (text := text_below(data, CLASSES)) is not None:
        return tuple(lines_of(text))
    try:
        features: Any = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
    except (TypeError, KeyError, ValueError, RecursionError):
        pass
    return number_classes(labels, stem)
