"""A folder of images with marked objects, in COCO's or YOLO's layout, opened for training."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featherbone.data.classification import listed
from featherbone.data.coco import open_coco
from featherbone.data.layouts import LAYOUTS, SPLITS
from featherbone.data.objects import MarkedImages, Opened
from featherbone.data.yolo import LIST, open_yolo
from featherbone.errors import BadData


@dataclass(frozen=True)
class DetectionSplits:
    """What is trained on, what is validated on, and what was noticed on opening."""

    train: MarkedImages
    val: MarkedImages
    notices: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their indices."""
        return self.train.classes

    def fingerprint(self) -> str:
        """A hash of both splits; the same set has the same one, wherever it lies."""
        both = f"{self.train.fingerprint()} {self.val.fingerprint()}"
        return hashlib.sha256(both.encode()).hexdigest()[:16]


def open_detection(
    data: Path, val_share: float = 0.2, seed: int = 0, unlabelled: str = "leave-out", masks: bool = False
) -> DetectionSplits:
    """Open both splits, checked against each other.

    Where there is no validation split, `val_share` of the images is held out by `seed`. An image that no annotation
    file mentions is left out, or by `unlabelled` "negative" shows no object. Raises `BadData` for what would spoil
    training, with `masks` also where objects have none.
    """
    opened = {split: open_detection_split(data, split, unlabelled) for split in SPLITS}
    train, val = opened["train"], opened["val"]
    if train is None:
        if any(data.glob("annotations/panoptic_*.json")):
            raise BadData(f"{data}: objects of panoptic files are not read yet; write annotations/instances_train.json")
        raise BadData(f"{data}: no annotated images to train on; the layouts are\n{LAYOUTS}")
    notices = [notice for split, part in opened.items() if part for notice in _notices(split, part)]
    images = train.images
    if val is None:
        order = np.random.default_rng(seed).permutation(len(images)).tolist()
        count = min(max(round(val_share * len(images)), 1), len(images) - 1)
        images, held_out = images.take(sorted(order[count:])), images.take(sorted(order[:count]))
        notices.append(f"no validation split: held out {count} of {len(order)} images")
    else:
        held_out = val.images
    if (images.category_ids, images.classes) != (held_out.category_ids, held_out.classes):
        raise BadData(
            f"{data}: training has classes {_classes(images)}, validation {_classes(held_out)}; list the same in both"
        )
    if masks and not (images.has_masks and held_out.has_masks):
        raise BadData(f"{data}: not every object has a mask; mark them as polygons or run lengths, or find boxes alone")
    return DetectionSplits(images, held_out, tuple(notices))


def open_detection_split(data: Path, split: str, unlabelled: str = "leave-out", check: bool = True) -> Opened | None:
    """One split, None where `data` has none of that name; without `check` with all that is wrong in it."""
    coco = open_coco(data, split, unlabelled, check)
    if coco is not None or not (data / LIST).is_file():
        return coco
    return open_yolo(data, split, unlabelled, check)


def _notices(split: str, opened: Opened) -> list[str]:
    notices = []
    if opened.missing:
        names = listed(opened.missing)
        notices.append(f"{split}: {len(opened.missing)} images are listed but not there, and were left out: {names}")
    if opened.unlisted:
        notices.append(
            f"{split}: {len(opened.unlisted)} images without annotations were left out: {listed(opened.unlisted)}; "
            "if they show no object, give --unlabelled negative"
        )
    return notices


def _classes(images: MarkedImages) -> str:
    pairs = zip(images.category_ids, images.classes, strict=True)
    return listed([f"{number} {name}" for number, name in pairs])
