"""Any readable data set as tar shards with their index."""

import io
import math
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from featherbone.data.dataset import open_checked
from featherbone.data.findings import refuse
from featherbone.data.formats import find_task
from featherbone.data.formats.class_folders import LabelSplit
from featherbone.data.formats.masks import MaskSplit
from featherbone.data.images import FORMATS, is_array, open_image
from featherbone.data.layouts import SPLITS
from featherbone.data.listing import is_image
from featherbone.data.object_split import ObjectSplit
from featherbone.data.objects import to_json
from featherbone.data.split import Split
from featherbone.data.tar_index import INDEX, scan
from featherbone.errors import BadData, BadOption
from featherbone.files import atomic_folder, check_new_folder, write_bytes, write_text
from featherbone.ops import rle
from featherbone.progress import notify, track

TASKS = ("classification", "detection", "instance", "semantic")
"""Tasks whose annotations are written."""


def write_shards(data: Path, out: Path, task: str | None = None, samples_per_shard: int = 1000) -> dict[str, int]:
    """Write every split of a data set as tar shards into `out`, a new or empty folder; the number of images by split.

    Images are written as they are stored. Training images are shuffled, so that each shard is a sample of them.
    """
    if samples_per_shard < 1:
        raise BadOption(f"{samples_per_shard} samples a shard; pass 1 or more")
    check_new_folder(out)
    found = find_task(data, task)
    if found not in TASKS:
        raise BadOption(f"shards for {found} are not written; pass --task with one of {', '.join(TASKS)}")
    opened = {split: one for split in SPLITS if (one := open_checked(data, found, split, {})) is not None}
    for notice in (notice for one in opened.values() for notice in one.notices):
        notify(notice, "note")
    splits = {split: one.images for split, one in opened.items()}
    if not splits:
        raise BadData(f"{data}: no images; see: featherbone doctor {data}")
    first, *others = splits
    for split in others:
        splits[first], splits[split], findings = splits[split].matched(splits[first])
        refuse(findings, data)
    with atomic_folder(out) as new:
        write_text(new / "classes.txt", "".join(f"{name}\n" for name in splits[first].classes))
        for split, images in splits.items():
            order = np.random.default_rng(0).permutation(len(images)) if split == "train" else np.arange(len(images))
            starts = range(0, len(images), samples_per_shard)
            for at in track(starts, f"writing {split}", len(starts)):
                name = f"{split}-{at // samples_per_shard:06}.tar"
                _write_shard(new / name, images, at, order[at : at + samples_per_shard].tolist())
                write_bytes(new / (name + INDEX), msgspec.json.encode(scan(new, name)))
    return {split: len(images) for split, images in splits.items()}


def _write_shard(path: Path, images: Split[Any], first: int, indices: list[int]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, index in enumerate(indices, first):
            add_sample(tar, number, images.encoded(index), images.name(index), *_annotation(images, index))


def add_sample(tar: tarfile.TarFile, number: int, image: bytes, name: str, ending: str, annotation: bytes) -> None:
    """Add an encoded image, which messages call `name`, and its annotation. Raises `BadImage` for one of no format."""
    for suffix, content in ((_suffix(image, name), image), (ending, annotation)):
        member = tarfile.TarInfo(f"{number:09}{suffix}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def _suffix(content: bytes, name: str) -> str:
    """That of the image's name, else of its format."""
    if is_array(content):
        return ".npy"
    if is_image(name):
        return name[name.rfind(".") :].lower()
    with open_image(content, name) as image:
        return f".{FORMATS[image.format or 'PNG'].lower()}"


def _annotation(images: Split[Any], index: int) -> tuple[str, bytes]:
    """Ending and content of the annotations of an image."""
    if isinstance(images, LabelSplit):
        return ".cls", str(images.truth(index)).encode()
    if isinstance(images, MaskSplit):
        file = io.BytesIO()
        Image.fromarray(images.truth(index)).save(file, "PNG")
        return ".mask.png", file.getvalue()
    assert isinstance(images, ObjectSplit), "no other task is written"
    truth = images.truth(index)
    rows: list[dict[str, Any]] = []
    for i, label in enumerate(truth.labels.tolist()):
        row = {"category": images.classes[label], "bbox": truth.boxes_xywh[i].tolist(), "iscrowd": int(truth.crowd[i])}
        if math.isfinite(area := float(truth.stated_areas[i])):
            row["area"] = area
        if (shape := truth.shape(i)) is not None:
            row["segmentation"] = dict(rle.encode(shape)) if isinstance(shape, np.ndarray) else shape
        rows.append(row)
    return ".json", to_json({"width": truth.width, "height": truth.height, "objects": rows})
