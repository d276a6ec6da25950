"""Tar shards of samples, as WebDataset writes them: files of one name are a sample.

`000012.jpg` with `000012.cls`, the number or name of its class; with `000012.json`, its objects; or with
`000012.mask.png`, its mask of class indices.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from featherbone.data.findings import listed, many
from featherbone.data.formats.class_folders import LabelSplit, check_labels, number_classes
from featherbone.data.formats.coco_json import ALLOWED, MAX_PIXELS, StatedSize
from featherbone.data.formats.format import Format, Opened, Reading
from featherbone.data.formats.masks import MaskSplit
from featherbone.data.label_files import CLASS_FILES, CLASSES, Values, code_of
from featherbone.data.layouts import find_shards
from featherbone.data.listing import SUFFIXES, lines_of
from featherbone.data.object_split import ObjectSplit
from featherbone.data.object_table import ObjectTable
from featherbone.data.objects import Annotation, to_json
from featherbone.data.place import text_below
from featherbone.data.split import Split
from featherbone.data.tar_index import Members, read_index, scan
from featherbone.errors import BadData

OPENING = 16
"""Shards that are opened at once: at a URL, each waits for some requests."""
FIRST = 32
"""Files of the first shard by which the tasks are known."""
LABEL, OBJECTS, MASKS = ("cls",), ("json",), ("mask.png", "seg.png")
"""Endings of annotations."""


class StatedObject(msgspec.Struct):
    """One object in a sample's JSON."""

    category: int | str
    """Index or name of the class."""
    bbox: tuple[float, float, float, float]
    """x y width height in pixels."""
    segmentation: Any = None
    """Polygons or run lengths as COCO has them."""
    area: float | None = None
    iscrowd: int = 0


class StatedObjects(StatedSize):
    """A sample's JSON."""

    objects: list[StatedObject]


class ShardSplit(Split[Any]):
    """Images in tar shards."""

    members: Members

    def name(self, index: int) -> str:
        return self.members.name(index)

    def encoded(self, index: int) -> bytes:
        return self.members.read(index)

    def file(self, index: int) -> Path | bytes:
        return self.encoded(index)

    def blocks(self) -> NDArray[np.int64]:
        return self.members.places[:, 0]


@dataclass(frozen=True, eq=False)
class ShardLabels(ShardSplit, LabelSplit):
    """Images in tar shards, each of one class."""

    members: Members
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def take(self, indices: Sequence[int]) -> Self:
        return replace(self, members=self.members.take(indices), labels=self.labels[list(indices)])


@dataclass(frozen=True, eq=False)
class ShardObjects(ShardSplit, ObjectSplit):
    """Images in tar shards with annotated objects."""

    members: Members

    def take(self, indices: Sequence[int]) -> Self:
        return replace(self, members=self.members.take(indices), table=self.table.take(indices))


@dataclass(frozen=True, eq=False)
class ShardMasks(ShardSplit, MaskSplit):
    """Images in tar shards, each with a mask of class values."""

    members: Members
    masks: Members

    def stored(self, index: int) -> tuple[Values, bool]:
        return self.code.read(self.masks.read(index), self.masks.name(index))

    def map_sizes(self) -> Iterable[int]:
        return self.masks.places[:, 2].tolist()

    def take(self, indices: Sequence[int]) -> Self:
        members, masks = self.members.take(indices), self.masks.take(indices)
        return replace(super().take(indices), members=members, masks=masks)


class Shards(Format):
    """Tar shards."""

    name = "tar shards"
    fallback = True
    is_streamed = True

    def tasks(self, folder: Path) -> frozenset[str]:
        """By the annotations in the first files of the first shard."""
        first = next((names[0] for names in _find(folder).values()), None)
        if first is None:
            return frozenset()
        index = scan(folder, first, FIRST)
        endings, texts = {_split_name(name)[1] for name in index.names}, [*index.texts.values()]
        found = set() if endings.isdisjoint(LABEL) else {"classification"}
        found |= set() if endings.isdisjoint(MASKS) else {"semantic"}
        if any('"objects"' in text for text in texts):
            found |= {"detection"} | ({"instance"} if any('"segmentation"' in text for text in texts) else set())
        if not found:
            raise BadData(
                f"{folder}: the first samples of {first} have no .cls, .json with objects or .mask.png, but "
                f"{listed(sorted(endings))}; write shards with: featherbone data shards DIR --out OUT"
            )
        return frozenset(found)

    def open(self, folder: Path, task: str, split: str, reading: Reading) -> Opened | None:
        shards = _find(folder).get(split)
        if not shards:
            return None
        ending = {"classification": LABEL, "semantic": MASKS}.get(task, OBJECTS)
        with ThreadPoolExecutor(OPENING) as pool:
            parts = [*pool.map(lambda at: _read_shard(folder, shards, at, ending), range(len(shards)))]
        members = Members.join([part.images for part in parts])
        text = text_below(folder, CLASSES)
        if task == "semantic":
            return _masked(folder, members, Members.join([part.annotations for part in parts]), text, reading)
        texts, classes = [one for part in parts for one in part.texts], tuple(lines_of(text or ""))
        if task == "classification":
            stem = shards[0] if len(shards) == 1 else f"{shards[0]} to {shards[-1]}"
            return _labelled(members, stem, [text.strip() for text in texts], classes)
        return _annotated(folder, members, texts, classes)


class _Part(NamedTuple):
    """The samples of a shard."""

    images: Members
    annotations: Members
    texts: list[str]
    """Content of the annotations that are text."""


def _find(data: Path) -> dict[str, list[str]]:
    return find_shards(data, ".tar", "tar shards")


def _split_name(name: str) -> tuple[str, str]:
    """The name of a sample and the ending of one of its files, from the first dot in the file's name on."""
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return folder + slash + stem, ending.lower()


def _read_shard(root: Path, shards: Sequence[str], at: int, endings: Sequence[str]) -> _Part:
    """The samples of a shard, whose annotations have one of the `endings`. Raises `BadData`."""
    index = read_index(root, shards[at])
    images: dict[str, int] = {}
    arrays: dict[str, int] = {}
    annotations: dict[str, int] = {}
    for row, name in enumerate(index.names):
        stem, ending = _split_name(name)
        if ending == "npy":
            arrays[stem] = row
        elif "." + ending in SUFFIXES:
            if stem in images:
                raise BadData(f"{shards[at]}: {stem} twice, or with two images; give each sample another name")
            images[stem] = row
        elif ending in endings:
            annotations[stem] = row
    images = images or arrays  # beside pictures, arrays are something else
    if bare := [index.names[row] for stem, row in images.items() if stem not in annotations]:
        raise BadData(
            f"{shards[at]}: {many(bare, 'sample')} of {len(images):,} without .{endings[0]}, as {bare[0]}; add it, or "
            "remove the images"
        )

    def members(rows: Iterable[int]) -> Members:
        return Members.of(root, shards, [(at, index.offsets[row], index.sizes[row], index.names[row]) for row in rows])

    chosen = [annotations[stem] for stem in images]
    texts = [index.texts.get(index.names[row], "") for row in chosen]
    return _Part(members(images.values()), members(chosen), texts)


def _labelled(members: Members, stem: str, texts: list[str], classes: tuple[str, ...]) -> Opened:
    """Images with the numbers of their classes, or their names."""
    if all(re.fullmatch(r"-?\d{1,18}", text) for text in texts):
        labels = np.array([int(text) for text in texts], np.int64)
        classes = classes or number_classes(labels, stem)
    else:
        classes = classes or tuple(sorted(set(texts)))
        numbers = {name: number for number, name in enumerate(classes)}
        if unknown := next((text for text in texts if text not in numbers), None):
            raise BadData(f"{stem}: class {unknown!r} is not listed in {CLASSES}; list it, or correct the label")
        labels = np.array([numbers[text] for text in texts], np.int64)
    images = ShardLabels(members, labels, classes)
    return Opened(images, findings=tuple(check_labels(images, stem)))


def _annotated(root: Path, members: Members, texts: list[str], classes: tuple[str, ...]) -> Opened:
    """Images with objects; what cannot be read of them is kept as an error."""
    parsed = [_parse(text, members.name(at)) for at, text in enumerate(texts)]
    if not classes:
        used = {one.category for sample in parsed if isinstance(sample, StatedObjects) for one in sample.objects}
        classes = tuple(sorted(name for name in used if isinstance(name, str)))
    numbers: dict[int | str, int] = {name: number for number, name in enumerate(classes)}
    numbers |= {number: number for number in range(len(classes))}

    def rows(sample: StatedObjects | str, place: str) -> Iterator[Annotation]:
        if isinstance(sample, str):
            yield Annotation(error=sample)
            return
        for number, one in enumerate(sample.objects, 1):
            label = numbers.get(one.category)
            if label is None:
                fault = f"category {one.category!r} is not listed in {CLASSES}; list it, or correct it"
            elif not all(abs(value) <= MAX_PIXELS for value in one.bbox):
                fault = f"bbox {one.bbox}; write {ALLOWED['bbox']}"
            elif one.iscrowd not in (0, 1):
                fault = f"iscrowd {one.iscrowd}; write {ALLOWED['iscrowd']}"
            else:
                shape = to_json(one.segmentation) if one.segmentation else None
                area = math.nan if one.area is None else one.area
                yield Annotation(label, one.bbox, shape, bool(one.iscrowd), area, category_id=label)
                continue
            yield Annotation(error=f"{place}, object {number}: {fault}")

    table = ObjectTable.of(
        (members.name(at), at + 1, None if isinstance(one, str) else one.size, rows(one, members.name(at)))
        for at, one in enumerate(parsed)
    )
    return Opened(ShardObjects(root, table, classes, tuple(range(len(classes))), members))


def _parse(text: str, place: str) -> StatedObjects | str:
    """The objects of a sample, or what is wrong with its JSON."""
    try:
        return msgspec.json.decode(text, type=StatedObjects)
    except (msgspec.DecodeError, RecursionError) as error:
        return f"{place}: its .json is not that of objects ({error}); write width, height and objects with bbox"


def _masked(root: Path, members: Members, masks: Members, text: str | None, reading: Reading) -> Opened:
    """Images with masks of the classes that classes.txt lists."""
    if text is None:
        raise BadData(f"{root}: no {CLASSES}; write one, with the name of a class a line, in the order of the indices")
    code = code_of(CLASS_FILES[CLASSES](text, CLASSES), CLASSES, reading.ignore_index, reading.zero_ignored)
    return Opened(ShardMasks(root, members.paths(), masks.paths(), code, members, masks))
