"""A folder of images with marked objects, in COCO's, YOLO's or COCO panoptic's layout, opened for training."""

from pathlib import Path

from featherbone.data.coco import open_coco
from featherbone.data.findings import listed
from featherbone.data.formats import find_format
from featherbone.data.layouts import LAYOUTS, TRAINING_SPLITS
from featherbone.data.objects import MarkedImages, Opened
from featherbone.data.panoptic import open_panoptic
from featherbone.data.splits import Splits, hold_out
from featherbone.errors import BadData


def open_detection(
    data: Path, val_share: float = 0.2, seed: int = 0, unlabelled: str = "leave-out", masks: bool = False
) -> Splits:
    """Open both splits, checked against each other.

    Where there is no validation split, `val_share` of the images is held out by `seed`. An image that no annotation
    file mentions is left out, or by `unlabelled` "negative" shows no object. Raises `BadData` for what would spoil
    training, with `masks` also where objects have none.
    """
    opened = {split: open_detection_split(data, split, unlabelled) for split in TRAINING_SPLITS}
    train, val = opened["train"], opened["val"]
    if train is None:
        raise BadData(f"{data}: no annotated images to train on; the layouts are\n{LAYOUTS}")
    notices = [notice for split, part in opened.items() if part for notice in _notices(split, part)]
    images = train.images
    if val is None:
        images, held_out, notice = hold_out(images, val_share, seed)
        notices.append(notice)
    else:
        held_out = val.images
    if (images.category_ids, images.classes) != (held_out.category_ids, held_out.classes):
        raise BadData(
            f"{data}: training has classes {_classes(images)}, validation {_classes(held_out)}; list the same in both"
        )
    if masks and not (images.has_masks and held_out.has_masks):
        raise BadData(f"{data}: not every object has a mask; mark them as polygons or run lengths, or find boxes alone")
    return Splits(images, held_out, tuple(notices))


def open_detection_split(data: Path, split: str, unlabelled: str = "leave-out", check: bool = True) -> Opened | None:
    """One split, None where `data` has none of that name; without `check` with all that is wrong in it."""
    coco = open_coco(data, split, unlabelled, check)
    if coco is not None:
        return coco
    if known := find_format(data):
        return known.open(data, split, unlabelled, check)
    panoptic = open_panoptic(data, split, check)
    return None if panoptic is None else Opened(panoptic.images.marked(), panoptic.missing, (), 0)


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
    return notices + [f"{split}: {note}" for note in opened.notes]


def _classes(images: MarkedImages) -> str:
    pairs = zip(images.category_ids, images.classes, strict=True)
    return listed([f"{number} {name}" for number, name in pairs])
