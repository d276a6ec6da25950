"""Datasets of Hugging Face's `datasets` as files that `train` reads: https://huggingface.co/docs/datasets."""

import io
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from featherbone.data.images import open_image
from featherbone.data.objects import to_json
from featherbone.data.shard_write import add_sample
from featherbone.errors import BadData, MissingExtra
from featherbone.files import atomic, atomic_folder, check_new_folder, write_text

GROUP = 100
"""Images of a row group."""
SHARD = 1000
"""Images of a shard."""
OBJECTS = "objects"
"""Column of the objects of an image on the hub."""
CATEGORIES = ("category", "category_id", "label", "labels", "class")
"""Names of the field of an object's class on the hub."""
MAPS = ("annotation", "label", "labels", "mask", "semantic_segmentation", "segmentation", "label_map")
"""Names of the column of label maps on the hub."""


def to_parquet(dataset: Any, folder: str | os.PathLike[str]) -> Path:
    """Write a `Dataset`, a `DatasetDict` or a folder of `save_to_disk` as Parquet with its images, for `train --data`.

    For classification. Each split becomes a file of its name; a single dataset becomes `train`. Images are copied as
    they are encoded. Raises `BadData` for a folder that `save_to_disk` did not write.
    """
    splits = _open(dataset)
    from datasets.table import embed_table_storage

    for name, split in splits.items():
        with atomic(Path(folder, f"{name}.parquet")) as partial:
            with pq.ParquetWriter(partial, split.features.arrow_schema) as writer:
                for table in split.with_format("arrow").iter(GROUP):
                    writer.write_table(embed_table_storage(table))
    return Path(folder)


def to_shards(dataset: Any, folder: str | os.PathLike[str], classes: Sequence[str] | None = None) -> Path:
    """Write what `to_parquet` takes as tar shards in a new folder, for detection and semantic segmentation.

    Detection needs a column `objects` of `bbox`, x y width height in pixels, and `category`; semantic segmentation a
    second column of images, whose values index `classes`, 255 for none. `classes` are required where the features name
    none. Raises `BadData` for other columns and `BadImage` for content that is not an image.
    """
    splits, folder = _open(dataset), Path(folder)
    from datasets.table import embed_table_storage

    check_new_folder(folder)
    with atomic_folder(folder) as new:
        for name, split in splits.items():
            image, annotation, classes = _columns(split.features, classes)
            for first, table in enumerate(split.with_format("arrow").iter(SHARD)):
                rows = embed_table_storage(table.select([image, annotation])).to_pylist()
                with tarfile.open(new / f"{name}-{first:06}.tar", "w") as tar:
                    for number, row in enumerate(rows, first * SHARD):
                        place = f"row {number} of {name}"
                        content, label = ((row[column] or {}) for column in (image, annotation))
                        ending, stated = _objects(label, place) if annotation == OBJECTS else _label_map(label, place)
                        add_sample(tar, number, content.get("bytes") or b"", place, ending, stated)
        if classes:
            write_text(new / "classes.txt", "".join(f"{one}\n" for one in classes))
    return folder


def _open(dataset: Any) -> Mapping[str, Any]:
    """The splits of a data set or a folder of one."""
    try:
        from datasets import load_from_disk
    except ImportError:
        raise MissingExtra("datasets is not installed; pip install datasets") from None
    if isinstance(dataset, str | os.PathLike):
        try:
            dataset = load_from_disk(os.fspath(dataset))
        except (FileNotFoundError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise BadData(f"{reason}; give a folder that save_to_disk wrote, or a dataset") from None
    return dataset if isinstance(dataset, Mapping) else {"train": dataset}


def _columns(features: Mapping[str, Any], classes: Sequence[str] | None) -> tuple[str, str, Sequence[str]]:
    """The columns of images and of annotations, and the classes."""
    images = [name for name, kind in features.items() if type(kind).__name__ == "Image"]
    image = "image" if "image" in images else images[0] if images else ""
    maps = [name for name in images if name != image]
    annotation = OBJECTS if OBJECTS in features else next((name for name in MAPS if name in maps), "")
    if not annotation and len(maps) == 1:
        annotation = maps[0]
    if not image or not annotation:
        raise BadData(
            f"columns {', '.join(features)}: detection needs image and objects (bbox, category), semantic segmentation "
            "an image and a label map; rename the columns, or use to_parquet for classification"
        )
    if annotation == OBJECTS and classes is None:
        fields = getattr(features[OBJECTS], "feature", features[OBJECTS])
        kind = next((fields[name] for name in CATEGORIES if name in fields), None)
        kind = getattr(kind, "feature", kind)
        classes = () if getattr(kind, "dtype", None) == "string" else getattr(kind, "names", None)
    if classes is None:
        raise BadData(f"column {annotation} names no classes; pass classes=[...], in the order of their numbers")
    return image, annotation, classes


def _objects(stated: Any, place: str) -> tuple[str, bytes]:
    """Ending and content of the objects of an image: a list of them, or a list of each field."""
    if isinstance(stated, Mapping):
        stated = {name: values for name, values in stated.items() if values is not None}
        stated = [dict(zip(stated, one, strict=True)) for one in zip(*stated.values(), strict=True)]
    rows = []
    for one in stated:
        category = next((one[name] for name in CATEGORIES if name in one), None)
        if category is None or len(one.get("bbox") or ()) != 4:
            raise BadData(f"{place}: an object has no bbox or no category; both are needed, bbox as x y width height")
        row = {"category": category, "bbox": one["bbox"], "iscrowd": int(one.get("iscrowd") or 0)}
        rows.append(row if one.get("area") is None else {**row, "area": one["area"]})
    return ".json", to_json({"objects": rows})


def _label_map(stated: Mapping[str, Any], place: str) -> tuple[str, bytes]:
    """Ending and content of a label map, as it is encoded if that is PNG."""
    content = stated.get("bytes") or b""
    if not content.startswith(b"\x89PNG"):
        with open_image(content, f"label map of {place}") as image:
            image.save(file := io.BytesIO(), "PNG")
        content = file.getvalue()
    return ".mask.png", content
