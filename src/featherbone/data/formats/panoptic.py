"""COCO's panoptic files and Cityscapes' instance ids: things and stuff on one map per image."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featherbone.data.bands import AnyImage
from featherbone.data.findings import Example, Finding, finding, listed, many, report
from featherbone.data.formats.coco_json import read_panoptic
from featherbone.data.formats.format import Format, Opened, Reading, skipped_files
from featherbone.data.formats.masks import CITY_IMAGE
from featherbone.data.label_files import CITYSCAPES, CITYSCAPES_THINGS, read_values
from featherbone.data.layouts import names_of, split_folders, split_of
from featherbone.data.listing import SUFFIXES, below, list_names
from featherbone.data.named_files import NamedFiles, find_below
from featherbone.data.object_split import ObjectSplit
from featherbone.data.object_table import ObjectTable
from featherbone.data.objects import Annotation, Objects, parse_json, to_json
from featherbone.data.split import MapSplit, PanopticSegment, PanopticTruth, Split, hash_listing
from featherbone.data.text_array import TextArray
from featherbone.errors import BadData, BadImage
from featherbone.ops import rle
from featherbone.ops.label_maps import IGNORE

CITY_IDS = "_gtFine_instanceIds"
"""End of the names of Cityscapes' instance maps."""


@dataclass(frozen=True, eq=False)
class PanopticSplit(MapSplit[PanopticTruth]):
    """Images of one split, each with a map of segments."""

    root: Path
    paths: TextArray
    maps: TextArray
    image_ids: NDArray[np.int64]
    """Numbers of the images in their file; their places, from 1, in Cityscapes."""
    parts: TextArray | None
    """The segments of each image as JSON; None where the values of the map define them, as in Cityscapes."""
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    """The number of each class in the files."""
    things: tuple[int, ...]
    """Indices of the countable classes."""

    @property
    def stuff(self) -> tuple[int, ...]:
        """Indices of the classes that are not countable."""
        return tuple(i for i in range(len(self.classes)) if i not in self.things)

    def ids(self, index: int) -> NDArray[np.int32]:
        """Segment ids (H, W) as stored on the map. Raises `BadImage`."""
        path = self.maps[index]
        return read_ids(self.root / path, path)

    def image_id(self, index: int) -> int:
        """The image's number in the file that lists it."""
        return int(self.image_ids[index])

    def stated(self, index: int) -> list[PanopticSegment]:
        """The segments of an image that its file lists."""
        rows = parse_json(self.parts.encoded(index)) if self.parts is not None else ()
        return [PanopticSegment(*row) for row in rows]

    def segments_of(self, index: int, ids: NDArray[np.int32]) -> tuple[PanopticSegment, ...]:
        """The segments of an image with the map `ids`."""
        if self.parts is not None:
            return tuple(self.stated(index))
        labels = {number: label for label, number in enumerate(self.category_ids)}
        found = [(value, labels.get(value // 1000 if value >= 1000 else value)) for value in np.unique(ids).tolist()]
        return tuple(
            PanopticSegment(label, crowd=value < 1000 and label in self.things, id=value)
            for value, label in found
            if label is not None
        )

    def truth(self, index: int) -> PanopticTruth:
        return self.segments(index)

    def segments(self, index: int) -> PanopticTruth:
        """The segments of an image. Raises `BadImage` for an unreadable map, `BadData` for values without a segment."""
        ids = self.ids(index)
        parts = self.segments_of(index, ids)
        known, places = np.unique(ids, return_inverse=True)
        numbers = {part.id: number for number, part in enumerate(parts, 1)}
        if self.parts is not None and (odd := set(known.tolist()) - numbers.keys() - {0}):
            raise BadData(
                f"{self.maps[index]}: {len(odd)} ids that segments_info does not list, as {min(odd)}; list or remove "
                "them"
            )
        table = np.array([numbers.get(value, 0) for value in known.tolist()], np.int32)
        return PanopticTruth(table[places.reshape(ids.shape)], parts)

    def shown_classes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As `Split.shown_classes`; maps are read only where no file lists their segments."""
        if self.parts is None:
            return super().shown_classes()
        pairs = [(index, part.label) for index in range(len(self)) for part in self.stated(index) if part.label >= 0]
        images, labels = np.array(pairs, np.int64).reshape(-1, 2).T
        return images, labels

    def take(self, indices: Sequence[int]) -> Self:
        return replace(
            self,
            paths=self.paths.take(indices),
            maps=self.maps.take(indices),
            image_ids=self.image_ids[list(indices)],
            parts=self.parts and self.parts.take(indices),
        )

    def fingerprint(self) -> str:
        head = f"{len(self)} images of {self.classes}, things {self.things}"
        return hash_listing(head, self.hash_maps(), b"" if self.parts is None else bytes(self.parts.content))

    def matched(self, train: Split[Any]) -> tuple[Split[Any], Self, list[Finding]]:
        assert isinstance(train, PanopticSplit), "both splits are read by one format"
        if (train.category_ids, train.classes) != (self.category_ids, self.classes):
            message = (
                f"training has classes {listed(train.classes)}, validation {listed(self.classes)}, or other ids for "
                "them; list the same in both"
            )
            return train, self, [Finding("error", "classes-differ", message, 1)]
        odd = [Example((train.classes[i],)) for i in sorted({*train.things} ^ {*self.things})]
        text = "a thing in one split and stuff in the other; set isthing alike"
        return train, self, list(report("error", "isthing-differs", odd, "class", text))

    def objects(self, truth: PanopticTruth) -> Objects:
        """The things of an image as objects with masks as arrays (H, W); a label is an index of `things`."""
        rows = []
        for number, segment in enumerate(truth.segments, 1):
            mask = truth.ids == number
            if segment.label in self.things and mask.any():
                x1, y1, x2, y2 = rle.box_of(mask)
                box, area = (x1, y1, x2 - x1, y2 - y1), float(mask.sum())
                rows.append(Annotation(self.things.index(segment.label), box, mask, segment.crowd, area))
        height, width = truth.ids.shape
        return Objects.parsed("", 0, height, width, rows)

    def stuff_labels(self, truth: PanopticTruth) -> NDArray[np.uint8]:
        """The target of a panoptic head's semantic branch (H, W): 0 for every thing, 1 + i for stuff i."""
        table = np.zeros(len(self.classes), np.uint8)
        table[list(self.stuff)] = 1 + np.arange(len(self.stuff))
        return np.array([IGNORE, *(table[segment.label] for segment in truth.segments)], np.uint8)[truth.ids]


class PanopticLabelSplit(PanopticSplit):
    """The same images, with the classes of their segments as label maps for semantic segmentation."""

    def truth(self, index: int) -> NDArray[np.uint8]:  # type: ignore[override]  # another view of the same files
        return self.segments(index).labels()


@dataclass(frozen=True, eq=False)
class ThingSplit(ObjectSplit):
    """The images of panoptic maps, with their things as objects whose boxes and masks are drawn from the maps."""

    source: PanopticSplit

    @classmethod
    def of(cls, source: PanopticSplit) -> Self:
        """The things of a split."""
        if source.parts is None:
            raise BadData(f"{source.root}: the boxes of Cityscapes are not read; train panoptic or semantic")
        things = source.things

        def rows(index: int) -> Iterator[Annotation]:
            for part in source.stated(index):
                if part.label in things:
                    yield Annotation(
                        label=things.index(part.label),
                        box=part.stated.get("bbox", (0, 0, 0, 0)),
                        segmentation=source.maps[index],
                        crowd=part.crowd,
                        category_id=source.category_ids[part.label],
                    )

        images = ((source.paths[i], source.image_id(i), None, rows(i)) for i in range(len(source)))
        numbers = tuple(source.category_ids[i] for i in things)
        return cls(source.root, ObjectTable.of(images), tuple(source.classes[i] for i in things), numbers, source)

    def size(self, index: int) -> tuple[int, int]:
        return self.source.size(index)

    def truth(self, index: int) -> Objects:
        return self._objects(index, self.source.segments(index))

    def read(self, index: int, channels: int | None = None) -> tuple[AnyImage, Objects]:
        image, truth = self.source.read(index, channels)
        return image, self._objects(index, truth)

    def _objects(self, index: int, truth: PanopticTruth) -> Objects:
        return replace(self.source.objects(truth), path=self.name(index), image_id=self.image_id(index))

    def take(self, indices: Sequence[int]) -> Self:
        return replace(super().take(indices), source=self.source.take(indices))

    def drawn(self) -> ObjectSplit:
        """The same images with the boxes of the maps instead of those that are stated, and without masks."""
        images = []
        for index in range(len(self)):
            try:
                objects = self.truth(index)
                size, rows = (
                    (objects.height, objects.width),
                    zip(objects.boxes.tolist(), objects.labels.tolist(), objects.crowd.tolist(), strict=True),
                )
                found = [
                    Annotation(label, (x1, y1, x2 - x1, y2 - y1), crowd=crowd, category_id=self.category_ids[label])
                    for (x1, y1, x2, y2), label, crowd in rows
                ]
            except (BadData, BadImage):
                size, found = None, []
            images.append((self.name(index), self.image_id(index), size, found))
        return ObjectSplit(self.root, ObjectTable.of(images), self.classes, self.category_ids)

    def matched(self, train: Split[Any]) -> tuple[Split[Any], Self, list[Finding]]:
        assert isinstance(train, ThingSplit), "both splits are read by one format"
        return train, self, self.source.matched(train.source)[2]

    def with_crowds_as_objects(self) -> ObjectSplit:
        """Refused with `BadData`: the map does not separate a crowd's objects."""
        raise BadData(f"{self.root}: crowds of panoptic maps are not single objects; omit --crowds objects")

    def named(self, classes: tuple[str, ...], category_ids: Sequence[int] = ()) -> ObjectSplit:
        """As `Split.named`, for the same classes only."""
        if self.classes == classes:
            return self
        raise BadData(f"{self.root}: training has classes {classes}, not {self.classes}; list the same in both")


class CocoPanoptic(Format):
    """COCO's panoptic files."""

    name = "COCO panoptic"

    def tasks(self, folder: Path) -> frozenset[str]:
        """Every dense task, where there is an annotation file."""
        found = any(folder.glob("annotations/panoptic_*.json"))
        return frozenset(("detection", "instance", "semantic", "panoptic") if found else ())

    def open(self, folder: Path, task: str, split: str, reading: Reading) -> Opened | None:
        files = {file.stem.removeprefix("panoptic_"): file for file in folder.glob("annotations/panoptic_*.json")}
        names = names_of(split, files)
        return _opened(task, split, *_read_coco(folder, files[names[0]])) if names else None


class Cityscapes(Format):
    """Cityscapes' own folders, whose `instanceIds` files hold the segments."""

    name = "Cityscapes"

    def tasks(self, folder: Path) -> frozenset[str]:
        """Panoptic; semantic is served by its masks of classes."""
        found = (folder / "leftImg8bit").is_dir() and any(folder.glob(f"gtFine/*/**/*{CITY_IDS}.png"))
        return frozenset(("panoptic",) if found else ())

    def open(self, folder: Path, task: str, split: str, reading: Reading) -> Opened | None:
        for images in split_folders(folder / "leftImg8bit", split):
            names = list_names(folder / "gtFine" / images.name, SUFFIXES)
            if found := [f"{images.name}/{name}" for name in names if os.path.splitext(name)[0].endswith(CITY_IDS)]:
                return _opened(task, split, *_read_cityscapes(folder, found))
        return None


def _opened(task: str, split: str, images: PanopticSplit, missing: Sequence[str]) -> Opened:
    """The images as `task` reads them, and what is wrong with their files; no map is read."""
    message = f"images and maps listed for {split} but not there, skipped; bring them back, or correct names and folder"
    findings = skipped_files(f"missing-in-{split}", missing, len(images), message)
    findings += _check_split(split, images, task)
    if task in ("detection", "instance"):
        return Opened(ThingSplit.of(images), findings=tuple(findings))
    if task == "semantic":
        images = PanopticLabelSplit(**vars(images))
    return Opened(images, findings=tuple(findings))


def _check_split(split: str, images: PanopticSplit, task: str) -> list[Finding]:
    findings = []
    for kind, of in (("things", images.things), ("stuff", images.stuff)):
        if not of and task == "panoptic":
            needed = kind == "things" and split == "train"
            message = f"{split}: all classes have the same isthing, so there are no {kind}; set isthing to 1 or 0"
            message += ", or train semantic segmentation" if needed else ""
            findings.append(Finding("error" if needed else "warning", f"no-{kind}-in-{split}", message, 0))
    of_images = [(images.name(index), images.stated(index)) for index in range(len(images))]
    parts = [(path, part) for path, of in of_images for part in of]
    if unknown := [(path, part.id, part.stated.get("category_id")) for path, part in parts if part.label < 0]:
        numbers = listed(list(dict.fromkeys(str(number) for *_, number in unknown)))
        message = (
            f"{split}: {many(unknown, 'segment')} of {len(parts):,} of a category that is not listed, as category "
            f"{numbers}; list the classes"
        )
        examples = [Example((path,), f"segment {id_}: category {number}") for path, id_, number in unknown]
        findings.append(finding("error", "unknown-class", message, examples))
    if twice := [Example((path,)) for path, of in of_images if len({part.id for part in of}) < len(of)]:
        message = f"{split}: {many(twice, 'image')} with an id given to two segments; give each a different id"
        findings.append(finding("error", "repeated-ids", message, twice))
    if task in ("detection", "instance") and all(p.crowd or p.label not in images.things for _, p in parts):
        findings.append(Finding("error", f"no-things-in-{split}", f"no thing on an image of {split}; annotate some", 0))
    return findings


def _read_coco(data: Path, file: Path) -> tuple[PanopticSplit, list[str]]:
    """The images of an annotation file, and the images and maps that do not exist."""
    name = below(data, file)
    content = read_panoptic(file, name)
    listed_images = {image.id: image for image in content.images}
    categories = {category.id: category for category in content.categories}
    if len(categories) >= IGNORE:
        raise BadData(f"{name}: {len(categories)} categories; list 1 to {IGNORE - 1}")
    order = sorted(categories)
    labels = {number: label for label, number in enumerate(order)}
    own = file.stem.removeprefix("panoptic_")
    folders = [data / own, data / "images" / own, data / own.rstrip("0123456789"), data / "images", data]
    folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
    maps = [folder for folder in (data / file.stem, data / "annotations" / file.stem) if folder.is_dir()]
    files = NamedFiles(data, folders, name, split_of(own))
    found: list[tuple[str, str, int, bytes]] = []
    missing: list[str] = []
    for row in content.annotations:
        image = listed_images.get(row.image_id)
        if image is None:
            raise BadData(f"{name}: an annotation of image {row.image_id}, which it does not list; list or remove it")
        path, map_path = files.find_path(image.file_name), find_below(maps, row.file_name, name)
        if path is None or map_path is None:
            missing.append(image.file_name if path is None else row.file_name)
            continue
        parts = [
            PanopticSegment(labels.get(one.category_id, -1), bool(one.iscrowd), one.id, one.stated)
            for one in row.segments_info
        ]
        found.append((path, below(data, map_path), row.image_id, to_json(parts)))
    images = PanopticSplit(
        root=data,
        paths=TextArray(path for path, *_ in found),
        maps=TextArray(place for _, place, *_ in found),
        image_ids=np.array([number for *_, number, _ in found], np.int64),
        parts=TextArray(parts for *_, parts in found),
        classes=tuple(categories[number].label for number in order),
        category_ids=tuple(order),
        things=tuple(label for label, number in enumerate(order) if categories[number].isthing),
    )
    return images, missing


def read_ids(path: Path, name: str) -> NDArray[np.int32]:
    """Segment ids (H, W) of COCO's PNG, R + 256 G + 65536 B, or of a grey one. Raises `BadImage`."""
    values, coloured = read_values(path, name, range(1 << 24))
    return values if not coloured else (values >> 16) | (values & 0xFF00) | ((values & 0xFF) << 16)


def _read_cityscapes(data: Path, maps: Sequence[str]) -> tuple[PanopticSplit, list[str]]:
    """The images of maps below `gtFine`, and the images that do not exist."""
    images = [f"leftImg8bit/{path.replace(CITY_IDS, CITY_IMAGE)}" for path in maps]
    found = [at for at, path in enumerate(images) if (data / path).is_file()]
    split = PanopticSplit(
        root=data,
        paths=TextArray(images[at] for at in found),
        maps=TextArray(f"gtFine/{maps[at]}" for at in found),
        image_ids=np.arange(1, 1 + len(found)),
        parts=None,
        classes=tuple(CITYSCAPES.values()),
        category_ids=tuple(CITYSCAPES),
        things=tuple(label for label, number in enumerate(CITYSCAPES) if number in CITYSCAPES_THINGS),
    )
    return split, [path for at, path in enumerate(images) if at not in {*found}]
