"""COCO's panoptic files and Cityscapes' instance ids: things and stuff on one map per image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from featherbone.data.findings import Example, Finding, finding, listed, many, report
from featherbone.data.formats.coco_json import read_panoptic
from featherbone.data.formats.format import Format, Opened, Reading, skipped_files
from featherbone.data.images import read_file
from featherbone.data.label_files import CITYSCAPES, CITYSCAPES_THINGS, read_values
from featherbone.data.layouts import names_of, split_folders, split_of
from featherbone.data.listing import below, list_images
from featherbone.data.named_files import NamedFiles, find_below
from featherbone.data.objects import Annotation, Objects, ObjectSplit, size_of
from featherbone.data.split import ListedSplit, PanopticSegment, PanopticTruth, Split
from featherbone.errors import BadData, BadImage
from featherbone.ops import rle
from featherbone.ops.label_maps import IGNORE
from featherbone.text import to_bytes

CITY_IDS = "_gtFine_instanceIds"
"""End of the names of Cityscapes' instance maps."""


class PanopticEntry(NamedTuple):
    """One image, its map, and the segments on it."""

    path: str
    """Image below the data folder."""
    map: str
    height: int
    width: int
    image_id: int
    parts: tuple[PanopticSegment, ...] | None
    """None where the values of the map define the segments, as in Cityscapes."""


@dataclass(frozen=True, eq=False)
class PanopticSplit(ListedSplit[PanopticTruth]):
    """Images of one split, each with a map of segments."""

    root: Path
    entries: tuple[PanopticEntry, ...]
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
        path = self.entries[index].map
        return read_ids(self.root / path, path)

    def parts(self, index: int, ids: NDArray[np.int32]) -> tuple[PanopticSegment, ...]:
        """The segments of an image with the map `ids`."""
        stated = self.entries[index].parts
        if stated is not None:
            return stated
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
        entry, ids = self.entries[index], self.ids(index)
        parts = self.parts(index, ids)
        known, places = np.unique(ids, return_inverse=True)
        numbers = {part.id: number for number, part in enumerate(parts, 1)}
        if entry.parts is not None and (odd := set(known.tolist()) - numbers.keys() - {0}):
            raise BadData(
                f"{entry.map}: {len(odd)} ids that segments_info does not list, as {min(odd)}; list or remove them"
            )
        table = np.array([numbers.get(value, 0) for value in known.tolist()], np.int32)
        return PanopticTruth(table[places.reshape(ids.shape)], parts)

    def check(self, index: int) -> None:
        """Raise `BadImage` where image or map cannot be read or differ in size, and `BadData` as `segments` does."""
        self.check_map(index, self.image(index), self.entries[index].map, self.segments(index).ids.shape, "map")

    def fingerprint(self) -> str:
        digest = sha256(to_bytes(f"{len(self)} images of {self.classes}, things {self.things}\n"))
        for entry in self.entries:
            parts = None if entry.parts is None else [(part.id, part.label, part.crowd) for part in entry.parts]
            digest.update(to_bytes(f"{entry.path} {entry.map} {parts}\n"))
            digest.update(sha256(read_file(self.root / entry.map, entry.map)).digest())
        return digest.hexdigest()[:16]

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
        things = source.things
        entries = []
        for entry in source.entries:
            if entry.parts is None:
                raise BadData(f"{source.root}: the boxes of Cityscapes are not read; train panoptic or semantic")
            rows = [
                Annotation(
                    label=things.index(part.label),
                    box=part.stated.get("bbox", (0, 0, 0, 0)),
                    segmentation=entry.map,
                    crowd=part.crowd,
                    category_id=source.category_ids[part.label],
                )
                for part in entry.parts
                if part.label in things
            ]
            entries.append(Objects.parsed(entry.path, entry.image_id, entry.height, entry.width, rows))
        numbers = tuple(source.category_ids[i] for i in things)
        return cls(source.root, tuple(entries), tuple(source.classes[i] for i in things), numbers, source)

    def truth(self, index: int) -> Objects:
        entry = self.entries[index]
        return replace(self.source.objects(self.source.segments(index)), path=entry.path, image_id=entry.image_id)

    def take(self, indices: Sequence[int]) -> Self:
        return replace(super().take(indices), source=self.source.take(indices))

    def drawn(self) -> ObjectSplit:
        """The same images with the boxes of the maps instead of those that are stated, and without masks."""
        entries = []
        for index, entry in enumerate(self.entries):
            try:
                objects = self.truth(index)
            except (BadData, BadImage):
                objects = entry.take(np.zeros(0, np.int64))
            size = objects.height, objects.width
            plain = Objects.of_boxes(size, objects.boxes, objects.labels, objects.crowd)
            numbers = tuple(self.category_ids[label] for label in objects.labels.tolist())
            entries.append(replace(plain, path=entry.path, image_id=entry.image_id, category_ids=numbers))
        return ObjectSplit(self.root, tuple(entries), self.classes, self.category_ids)

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
            maps = folder / "gtFine" / images.name
            if found := [path for path in list_images(maps) if path.stem.endswith(CITY_IDS)]:
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
        images = PanopticLabelSplit(images.root, images.entries, images.classes, images.category_ids, images.things)
    return Opened(images, findings=tuple(findings))


def _check_split(split: str, images: PanopticSplit, task: str) -> list[Finding]:
    findings = []
    for kind, of in (("things", images.things), ("stuff", images.stuff)):
        if not of and task == "panoptic":
            needed = kind == "things" and split == "train"
            message = f"{split}: all classes have the same isthing, so there are no {kind}; set isthing to 1 or 0"
            message += ", or train semantic segmentation" if needed else ""
            findings.append(Finding("error" if needed else "warning", f"no-{kind}-in-{split}", message, 0))
    parts = [(entry.path, part) for entry in images.entries for part in entry.parts or ()]
    if unknown := [(path, part.id, part.stated.get("category_id")) for path, part in parts if part.label < 0]:
        numbers = listed(list(dict.fromkeys(str(number) for *_, number in unknown)))
        message = (
            f"{split}: {many(unknown, 'segment')} of {len(parts):,} of a category that is not listed, as category "
            f"{numbers}; list the classes"
        )
        examples = [Example((path,), f"segment {id_}: category {number}") for path, id_, number in unknown]
        findings.append(finding("error", "unknown-class", message, examples))
    if twice := [Example((e.path,)) for e in images.entries if e.parts and len({p.id for p in e.parts}) < len(e.parts)]:
        message = f"{split}: {many(twice, 'image')} with an id given to two segments; give each a different id"
        findings.append(finding("error", "repeated-ids", message, twice))
    if task in ("detection", "instance") and all(p.crowd or p.label not in images.things for _, p in parts):
        findings.append(Finding("error", f"no-things-in-{split}", f"no thing on an image of {split}; annotate some", 0))
    return findings


def _read_coco(data: Path, file: Path) -> tuple[PanopticSplit, list[str]]:
    """The images of an annotation file, and the images and maps that do not exist."""
    name = below(data, file)
    content = read_panoptic(file, name)
    images = {image.id: image for image in content.images}
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
    entries: list[PanopticEntry] = []
    missing: list[str] = []
    for row in content.annotations:
        image = images.get(row.image_id)
        if image is None:
            raise BadData(f"{name}: an annotation of image {row.image_id}, which it does not list; list or remove it")
        path, map_path = files.find(image.file_name), find_below(maps, row.file_name, name)
        if path is None or map_path is None:
            missing.append(image.file_name if path is None else row.file_name)
            continue
        places = (below(data, path), below(data, map_path))
        parts = tuple(
            PanopticSegment(labels.get(one.category_id, -1), bool(one.iscrowd), one.id, one.stated)
            for one in row.segments_info
        )
        entries.append(PanopticEntry(*places, *size_of(path), row.image_id, parts))
    things = tuple(label for label, number in enumerate(order) if categories[number].isthing)
    names = tuple(categories[number].label for number in order)
    return PanopticSplit(data, tuple(entries), names, tuple(order), things), missing


def read_ids(path: Path, name: str) -> NDArray[np.int32]:
    """Segment ids (H, W) of COCO's PNG, R + 256 G + 65536 B, or of a grey one. Raises `BadImage`."""
    values, coloured = read_values(path, name, range(1 << 24))
    return values if not coloured else (values >> 16) | (values & 0xFF00) | ((values & 0xFF) << 16)


def _read_cityscapes(data: Path, maps: Sequence[Path]) -> tuple[PanopticSplit, list[str]]:
    entries: list[PanopticEntry] = []
    missing: list[str] = []
    for path in maps:
        place = path.relative_to(data / "gtFine").with_name(path.name.replace(CITY_IDS, "_leftImg8bit"))
        image = data / "leftImg8bit" / place
        if not image.is_file():
            missing.append(f"leftImg8bit/{place.as_posix()}")
            continue
        places = (below(data, image), below(data, path))
        entries.append(PanopticEntry(*places, *size_of(image), len(entries) + 1, None))
    numbers = tuple(CITYSCAPES)
    things = tuple(label for label, number in enumerate(numbers) if number in CITYSCAPES_THINGS)
    return PanopticSplit(data, tuple(entries), tuple(CITYSCAPES.values()), numbers, things), missing
