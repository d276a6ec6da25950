"""COCO's panoptic files, and Cityscapes' instance ids: things and stuff on one map an image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featherbone.data.coco import find_image
from featherbone.data.formats.coco_json import PanopticSegment as SegmentRow
from featherbone.data.formats.coco_json import read_panoptic
from featherbone.data.images import read_file, upright_size
from featherbone.data.label_files import CITYSCAPES, CITYSCAPES_THINGS, read_values
from featherbone.data.layouts import names_of, split_folders, split_of
from featherbone.data.listing import list_images
from featherbone.data.named_files import NamedFiles
from featherbone.data.objects import Marked, MarkedImages, Objects
from featherbone.data.split import FileSplit, PanopticSegment, PanopticTruth
from featherbone.errors import BadData, BadImage
from featherbone.ops import rle
from featherbone.ops.label_maps import IGNORE
from featherbone.text import to_bytes

CITY_IDS = "_gtFine_instanceIds"
"""End of the names of Cityscapes' instance maps."""


class Part(NamedTuple):
    """One segment of an image, as the file states it."""

    id: int
    """Its value on the map."""
    label: int
    """Class index; -1 for a class that is not known."""
    crowd: bool
    about: Mapping[str, Any]
    """The rest of what the file says."""


class Parted(NamedTuple):
    """One image, its map, and the segments on it."""

    path: str
    """Below the data folder."""
    map: str
    height: int
    width: int
    image_id: int
    parts: tuple[Part, ...] | None
    """None where the map's values alone tell, as Cityscapes' do."""


@dataclass(frozen=True, eq=False)
class PanopticImages(FileSplit[PanopticTruth]):
    """Images of one split, each with a map of segments."""

    root: Path
    entries: tuple[Parted, ...]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    """The number that each class has in the files."""
    things: tuple[int, ...]
    """Indices of the classes that can be counted."""

    @property
    def stuff(self) -> tuple[int, ...]:
        """Indices of the classes that cannot."""
        return tuple(i for i in range(len(self.classes)) if i not in self.things)

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        return self.entries[index].path

    def image_id(self, index: int) -> int:
        """The image's number in the file that lists it."""
        return self.entries[index].image_id

    def truth(self, index: int) -> PanopticTruth:
        places, parts = self.segments(index)
        return PanopticTruth(places, tuple(PanopticSegment(part.label, part.crowd) for part in parts))

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the image."""
        return self.entries[index].height, self.entries[index].width

    def ids(self, index: int) -> NDArray[np.int32]:
        """Segment ids (H, W) as the map has them. Raises `BadImage`."""
        path = self.entries[index].map
        return read_ids(self.root / path, path)

    def parts(self, index: int, ids: NDArray[np.int32]) -> tuple[Part, ...]:
        """The segments of an image, whose map is `ids`."""
        stated = self.entries[index].parts
        if stated is not None:
            return stated
        labels = {number: label for label, number in enumerate(self.category_ids)}
        found = []
        for value in np.unique(ids).tolist():
            number = value // 1000 if value >= 1000 else value
            if number in labels:
                crowd = value < 1000 and labels[number] in self.things
                found.append(Part(value, labels[number], crowd, {}))
        return tuple(found)

    def segments(self, index: int) -> tuple[NDArray[np.int32], tuple[Part, ...]]:
        """The map with each segment's place, from 1, as value (H, W), 0 for none, and the segments.

        Raises `BadImage` for a map that cannot be read, and `BadData` for values that no segment has.
        """
        entry, ids = self.entries[index], self.ids(index)
        parts = self.parts(index, ids)
        known, places = np.unique(ids, return_inverse=True)
        numbers = {part.id: number for number, part in enumerate(parts, 1)}
        if entry.parts is not None and (odd := set(known.tolist()) - numbers.keys() - {0}):
            raise BadData(
                f"{entry.map}: {len(odd)} ids that segments_info does not list, as {min(odd)}; list or remove them"
            )
        table = np.array([numbers.get(value, 0) for value in known.tolist()], np.int32)
        return table[places.reshape(ids.shape)], parts

    def labels(self, index: int) -> NDArray[np.uint8]:
        """Classes (H, W) of the image's pixels, `IGNORE` where none is known."""
        places, parts = self.segments(index)
        return np.array([IGNORE, *(part.label for part in parts)], np.uint8)[places]

    def stuff_labels(self, index: int) -> NDArray[np.uint8]:
        """What a panoptic head's semantic branch should say (H, W): 0 for any thing, 1 + i for stuff i."""
        table = np.zeros(len(self.classes), np.uint8)
        table[list(self.stuff)] = 1 + np.arange(len(self.stuff))
        places, parts = self.segments(index)
        return np.array([IGNORE, *(table[part.label] for part in parts)], np.uint8)[places]

    def objects(self, index: int, masks: bool = True) -> Objects:
        """The things of an image; a label is an index of `things`."""
        places, parts = self.segments(index)
        numbers = [n for n, part in enumerate(parts, 1) if part.label in self.things and (places == n).any()]
        covered = [places == number for number in numbers]
        boxes = np.array([rle.box_of(mask) for mask in covered], np.float32).reshape(-1, 4)
        kept = [parts[number - 1] for number in numbers]
        return Objects(
            self.entries[index].height,
            self.entries[index].width,
            boxes,
            np.array([self.things.index(part.label) for part in kept], np.int64),
            np.array([part.crowd for part in kept], bool),
            np.array([mask.sum() for mask in covered], np.float64),
            tuple(rle.encode(mask) for mask in covered) if masks else None,
        )

    def check(self, index: int) -> None:
        """Raise `BadImage` where image or map cannot be read or differ in size, and `BadData` as `segments` does."""
        image, (places, _) = self.image(index), self.segments(index)
        if places.shape != (image.height, image.width):
            entry = self.entries[index]
            raise BadImage(
                f"{entry.path}: {image.width}x{image.height} pixels, but {places.shape[1]}x{places.shape[0]} in "
                f"{entry.map}; save the map in the size of the upright image"
            )

    def take(self, indices: Sequence[int]) -> "PanopticImages":
        """Only the images of `indices`, in that order."""
        entries = tuple(self.entries[i] for i in indices)
        return PanopticImages(self.root, entries, self.classes, self.category_ids, self.things)

    def fingerprint(self) -> str:
        """A hash of every image's name, map and segments; the same set has the same one, wherever it lies."""
        digest = sha256(to_bytes(f"{len(self)} images of {self.classes}, things {self.things}\n"))
        for entry in self.entries:
            parts = None if entry.parts is None else [part[:3] for part in entry.parts]
            digest.update(to_bytes(f"{entry.path} {entry.map} {parts}\n"))
            digest.update(sha256(read_file(self.root / entry.map, entry.map)).digest())
        return digest.hexdigest()[:16]

    def marked(self) -> "MarkedThings":
        """The same images with their things alone, for detection and instance segmentation."""
        entries = []
        for entry in self.entries:
            if entry.parts is None:
                raise BadData(f"{self.root}: the boxes of Cityscapes are not read; train panoptic or semantic")
            rows = tuple(
                {
                    **{"bbox": part.about.get("bbox", [0, 0, 0, 0]), "iscrowd": part.crowd},
                    **{"label": self.things.index(part.label), "category_id": self.category_ids[part.label]},
                }
                for part in entry.parts
                if part.label in self.things
            )
            entries.append(Marked(entry.path, entry.height, entry.width, entry.image_id, rows))
        names, numbers = tuple(self.classes[i] for i in self.things), tuple(self.category_ids[i] for i in self.things)
        return MarkedThings(self.root, tuple(entries), names, numbers, True, self)


@dataclass(frozen=True, eq=False)
class MarkedThings(MarkedImages):
    """Images whose objects' boxes and masks are drawn from panoptic maps."""

    source: PanopticImages

    def take(self, indices: Sequence[int]) -> "MarkedThings":
        """Only the images of `indices`, in that order."""
        return self.source.take(indices).marked()

    def drawn(self) -> MarkedImages:
        """The same images with the boxes that the maps show, in place of those that are stated."""
        entries = []
        for index, entry in enumerate(self.entries):
            try:
                objects = self.objects(index)
            except (BadData, BadImage):
                entries.append(replace(entry, annotations=()))
                continue
            rows = zip(objects.boxes.tolist(), objects.labels.tolist(), objects.crowd.tolist(), strict=True)
            drawn = [
                {"bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": crowd, "label": label}
                | {"category_id": self.category_ids[label]}
                for (x1, y1, x2, y2), label, crowd in rows
            ]
            entries.append(replace(entry, annotations=tuple(drawn)))
        return MarkedImages(self.root, tuple(entries), self.classes, self.category_ids, False)

    def with_crowds_as_objects(self) -> "MarkedImages":
        """Refused with `BadData`: a segment's map does not part a crowd's objects."""
        raise BadData(f"{self.root}: crowds of panoptic maps are not single objects; omit --crowds objects")

    def with_classes(self, classes: Sequence[str], category_ids: Sequence[int]) -> "MarkedImages":
        """Refused with `BadData`: both splits of panoptic maps list the same classes."""
        raise BadData(f"{self.root}: training has classes {classes}, validation {self.classes}; list the same in both")

    def objects(self, index: int, masks: bool = False) -> Objects:
        """The things of an image, with their masks on request."""
        return self.source.objects(index, masks)


@dataclass(frozen=True)
class OpenedPanoptic:
    """One split as its files give it."""

    images: PanopticImages
    missing: tuple[str, ...]
    """Images or maps that are listed, but not there."""


def open_panoptic(data: Path, split: str, check: bool = True) -> OpenedPanoptic | None:
    """Images of a split with their segments; None where `data` has none of that name.

    With `check`, `BadData` is raised for a segment of a class that is not listed; without it its class is -1.
    """
    stems = {file.stem.removeprefix("panoptic_"): file for file in data.glob("annotations/panoptic_*.json")}
    for own in names_of(split, stems):
        return _open_coco(data, stems[own], check)
    for folder in split_folders(data / "leftImg8bit", split):
        if _city_maps(data / "gtFine" / folder.name):
            return _open_cityscapes(data, folder.name)
    return None


def _open_coco(data: Path, file: Path, check: bool) -> OpenedPanoptic:
    name = file.relative_to(data).as_posix()
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
    maps = [data / file.stem, data / "annotations" / file.stem]
    files = NamedFiles(data, folders, name, split_of(own))
    entries: list[Parted] = []
    missing: list[str] = []
    for row in content.annotations:
        image = images.get(row.image_id)
        if image is None:
            raise BadData(f"{name}: an annotation of image {row.image_id}, which it does not list; list or remove it")
        path = files.find(image.file_name)
        map_path = find_image([folder for folder in maps if folder.is_dir()], row.file_name, name)
        if path is None or map_path is None:
            missing.append(image.file_name if path is None else row.file_name)
            continue
        parts = tuple(_part(segment, labels, name, check) for segment in row.segments_info)
        try:
            height, width = upright_size(path)
        except BadImage:
            height = width = 1  # it is left out as unreadable before anything is made of it
        places = (path.relative_to(data).as_posix(), map_path.relative_to(data).as_posix())
        entries.append(Parted(*places, height, width, row.image_id, parts))
    if check and not entries:
        looked = ", ".join(folder.relative_to(data).as_posix() or "." for folder in [*folders, *maps])
        count = len(content.annotations)
        raise BadData(f"{name}: none of its {count} images is there with its map; looked in {looked}")
    things = tuple(label for label, number in enumerate(order) if categories[number].isthing)
    names = tuple(categories[number].label for number in order)
    return OpenedPanoptic(PanopticImages(data, tuple(entries), names, tuple(order), things), tuple(missing))


def read_ids(path: Path, name: str) -> NDArray[np.int32]:
    """Segment ids (H, W) of COCO's PNG, R + 256 G + 65536 B, or of a grey one. Raises `BadImage`."""
    values, coloured = read_values(path, name, range(1 << 24))
    return values if not coloured else (values >> 16) | (values & 0xFF00) | ((values & 0xFF) << 16)


def _part(segment: SegmentRow, labels: Mapping[int, int], name: str, check: bool) -> Part:
    label = labels.get(segment.category_id, -1)
    if check and label < 0:
        raise BadData(
            f"{name}: segment {segment.id} is of category {segment.category_id}; listed are "
            f"{', '.join(map(str, labels))}"
        )
    stated = {"bbox": segment.bbox, "area": segment.area, "category_id": segment.category_id}
    about = {key: value for key, value in stated.items() if value is not None}
    return Part(segment.id, label, bool(segment.iscrowd), about)


def _city_maps(folder: Path) -> list[Path]:
    """Cityscapes' instance maps below a folder."""
    return [path for path in list_images(folder) if path.stem.endswith(CITY_IDS)] if folder.is_dir() else []


def _open_cityscapes(data: Path, split: str) -> OpenedPanoptic:
    entries: list[Parted] = []
    missing: list[str] = []
    for path in _city_maps(data / "gtFine" / split):
        place = path.relative_to(data / "gtFine").with_name(path.name.replace(CITY_IDS, "_leftImg8bit"))
        image = data / "leftImg8bit" / place
        if not image.is_file():
            missing.append(f"leftImg8bit/{place.as_posix()}")
            continue
        try:
            height, width = upright_size(image)
        except BadImage:
            height = width = 1  # it is left out as unreadable before anything is made of it
        places = (image.relative_to(data).as_posix(), path.relative_to(data).as_posix())
        entries.append(Parted(*places, height, width, len(entries) + 1, None))
    numbers = tuple(CITYSCAPES)
    things = tuple(label for label, number in enumerate(numbers) if number in CITYSCAPES_THINGS)
    images = PanopticImages(data, tuple(entries), tuple(CITYSCAPES.values()), numbers, things)
    return OpenedPanoptic(images, tuple(missing))
