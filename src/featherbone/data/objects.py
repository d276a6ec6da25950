"""Images with objects marked on them: what COCO and YOLO files come to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featherbone.data.findings import listed
from featherbone.data.images import upright_size
from featherbone.data.split import FileSplit
from featherbone.errors import BadData, BadImage
from featherbone.ops import rle
from featherbone.results import Box, Detections, Instances, Rle
from featherbone.text import to_bytes


@dataclass(frozen=True, eq=False)
class Objects:
    """What is marked in one image of `height` and `width`, n objects."""

    height: int
    width: int
    boxes: NDArray[np.float32]
    """x1 y1 x2 y2 in pixels of the upright image (n, 4), cut at its borders."""
    labels: NDArray[np.int64]
    """Class indices (n,)."""
    crowd: NDArray[np.bool_]
    """Whether it is a group that was not taken apart (n,): nothing to learn, and no mistake to find."""
    areas: NDArray[np.float64]
    """Pixels covered (n,), by which COCO tells small, medium and large."""
    masks: tuple[Rle, ...] | None = None
    """None where the data has boxes only."""

    def record(self, classes: Sequence[str]) -> Detections:
        """What a perfect detector would say, each object with score 1."""
        boxes: list[Box] = [(x1, y1, x2, y2) for x1, y1, x2, y2 in self.boxes.tolist()]
        labels = tuple(self.labels.tolist())
        names, scores = tuple(classes[label] for label in labels), (1.0,) * len(labels)
        about = (self.height, self.width, tuple(boxes), labels, names, scores)
        return Detections(*about) if self.masks is None else Instances(*about, self.masks)


@dataclass(frozen=True)
class Marked:
    """One image and its annotations, as the files state them."""

    path: str
    """Below the data folder."""
    height: int
    width: int
    image_id: int
    """Of the file it is listed in; for YOLO its place in the sorted list, from 1."""
    annotations: tuple[Mapping[str, Any], ...]
    """COCO's form: `bbox` x y width height in pixels, `segmentation` if there is one, `iscrowd`, `area`, `id`; and
    `label`, the class index; -1 for a class that is not known. Where it cannot be read, `error` states place, reason
    and remedy, the box is empty and `label` is -1."""


def unreadable(error: str) -> dict[str, Any]:
    """An annotation that cannot be read: `error` states place, reason and remedy."""
    return {"bbox": [0.0] * 4, "label": -1, "category_id": -1, "iscrowd": False, "error": error}


@dataclass(frozen=True, eq=False)
class MarkedImages(FileSplit[Objects]):
    """Images of one split, with objects marked on them or known to have none."""

    root: Path
    entries: tuple[Marked, ...]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    """The number that each class has in the files."""
    has_masks: bool
    """Whether every object has a mask."""

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        return self.entries[index].path

    def image_id(self, index: int) -> int:
        """The image's number in the file that lists it; for formats without numbers its place, from 1."""
        return self.entries[index].image_id

    def truth(self, index: int) -> Objects:
        return self.objects(index, self.has_masks)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width as annotated."""
        return self.entries[index].height, self.entries[index].width

    def image(self, index: int) -> Image.Image:
        """The upright image in RGB. Raises `BadImage`, also where its size is not the annotated one."""
        image = super().image(index)
        _check_size(self.entries[index], image.height, image.width)
        return image

    def take(self, indices: Sequence[int]) -> "MarkedImages":
        """Only the images of `indices`, in that order."""
        entries = tuple(self.entries[i] for i in indices)
        return MarkedImages(self.root, entries, self.classes, self.category_ids, self.has_masks)

    def with_crowds_as_objects(self) -> "MarkedImages":
        """The same images with every crowd taken for a single object."""
        entries = tuple(
            replace(entry, annotations=tuple({**a, "iscrowd": False} for a in entry.annotations))
            for entry in self.entries
        )
        masks = all(a.get("segmentation") for entry in entries for a in entry.annotations)
        return MarkedImages(self.root, entries, self.classes, self.category_ids, masks)

    def with_classes(self, classes: Sequence[str], category_ids: Sequence[int]) -> "MarkedImages":
        """The same images with the classes of another split, found by their names.

        The numbers in the files stay; a class that these files do not list has that of the other split if it is free.
        Raises `BadData` where an object's class is not among `classes`.
        """
        places = {name: label for label, name in enumerate(classes)}
        used = {a["label"] for entry in self.entries for a in entry.annotations if a["label"] >= 0}
        if odd := [self.classes[label] for label in sorted(used) if self.classes[label] not in places]:
            raise BadData(
                f"{self.root}: objects of classes that the training images do not list: {listed(odd)}; theirs are "
                f"{listed(classes)}; list the same in both"
            )
        numbers = dict(zip(self.classes, self.category_ids, strict=True))
        for name, number in zip(classes, category_ids, strict=True):
            taken = set(numbers.values())
            numbers.setdefault(name, number if number not in taken else max(taken) + 1)
        table = [places.get(name, -1) for name in self.classes] + [-1]
        entries = tuple(
            replace(entry, annotations=tuple({**a, "label": table[a["label"]]} for a in entry.annotations))
            for entry in self.entries
        )
        ids = tuple(numbers[name] for name in classes)
        return MarkedImages(self.root, entries, tuple(classes), ids, self.has_masks)

    def objects(self, index: int, masks: bool = False) -> Objects:
        """The objects of an image, with their masks on request; boxes that are empty within the image are left out.

        Raises `BadImage` where masks are to be drawn and the image has not the annotated size.
        """
        entry = self.entries[index]
        if masks and entry.annotations:
            _check_size(entry, *upright_size(self.root / entry.path))
        limit = np.array([entry.width, entry.height] * 2, np.float64)
        given = np.array([a["bbox"] for a in entry.annotations], np.float64).reshape(-1, 4)
        given[:, 2:] += given[:, :2]
        boxes = given.clip(0, limit)
        fit = np.flatnonzero(((boxes[:, 2:] - boxes[:, :2]) > 0).all(1))
        kept = [entry.annotations[i] for i in fit]
        sides = boxes[fit, 2:] - boxes[fit, :2]
        areas = [a["area"] if "area" in a else _area(a, entry, side) for a, side in zip(kept, sides, strict=True)]
        return Objects(
            entry.height,
            entry.width,
            boxes[fit].astype(np.float32),
            np.array([a["label"] for a in kept], np.int64),
            np.array([bool(a.get("iscrowd", 0)) for a in kept], bool),
            np.array(areas, np.float64),
            tuple(_mask(a, entry) for a in kept) if masks else None,
        )

    def fingerprint(self) -> str:
        """A hash of every image's name and objects; the same set has the same one, wherever it lies."""
        digest = sha256(to_bytes(f"{len(self)} images of {self.classes}\n"))
        for entry in self.entries:
            digest.update(to_bytes(f"{entry.path} {entry.width}x{entry.height}\n"))
            for a in entry.annotations:
                digest.update(to_bytes(f"{a['label']} {a['bbox']} {a.get('iscrowd', 0)} {a.get('segmentation')}\n"))
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Opened:
    """One split as its files give it."""

    images: MarkedImages
    missing: tuple[str, ...]
    """Images that are listed, but not there."""
    unlisted: tuple[str, ...]
    """Images that are there, but not listed, and were left out."""
    orphans: int
    """Annotations of images that are not listed."""
    notes: tuple[str, ...] = ()
    """What else was noticed: what of the files is read in which way, and what is not read."""


def _check_size(entry: Marked, height: int, width: int) -> None:
    if (height, width) != (entry.height, entry.width):
        turned = ", turned by its EXIF orientation" if (width, height) == (entry.height, entry.width) else ""
        raise BadImage(
            f"{entry.path}: {width}x{height} pixels{turned}, but annotated as {entry.width}x{entry.height}; annotate "
            "the upright image, or correct the size"
        )


def _area(annotation: Mapping[str, Any], entry: Marked, side: NDArray[np.float64]) -> float:
    """Pixels of the mask, or of the box of that width and height where there is no mask that can be read."""
    segmentation = annotation.get("segmentation")
    if not segmentation or rle.fault(segmentation, entry.height, entry.width):
        return float(side.prod())
    return float(rle.areas([rle.from_coco(segmentation, entry.height, entry.width)])[0])


def _mask(annotation: Mapping[str, Any], entry: Marked) -> Rle:
    try:
        return rle.from_coco(annotation.get("segmentation") or [], entry.height, entry.width)
    except ValueError as error:
        raise BadData(f"{mask_place(annotation, entry)}: {error}; correct or remove it") from None


def mask_place(annotation: Mapping[str, Any], entry: Marked) -> str:
    """What messages call the mask of an annotation."""
    number = f"annotation {annotation['id']}" if "id" in annotation else f"the object at {annotation['bbox'][:2]}"
    return f"{entry.path}: the mask of {number}"
