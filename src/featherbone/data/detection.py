"""A folder of images with marked objects, in COCO's, YOLO's or COCO panoptic's layout, opened for training."""

from dataclasses import replace
from pathlib import Path

from featherbone.data.coco import open_coco
from featherbone.data.findings import listed, many
from featherbone.data.formats import find_format
from featherbone.data.layouts import LAYOUTS, TRAINING_SPLITS
from featherbone.data.objects import MarkedImages, Opened, mask_place
from featherbone.data.panoptic import MarkedThings, open_panoptic
from featherbone.data.splits import Splits, hold_out
from featherbone.errors import BadData
from featherbone.ops import rle

MOSTLY = 0.5
"""From this share of crowds among the annotations on, a note asks whether they are meant."""


def open_detection(
    data: Path,
    val_share: float = 0.2,
    seed: int = 0,
    unlabelled: str = "leave-out",
    masks: bool = False,
    crowds: str = "ignore",
) -> Splits:
    """Open both splits, checked against each other; their classes are those of training, found by name.

    Where there is no validation split, `val_share` of the images is held out by `seed`. An image that no annotation
    file mentions is left out, or by `unlabelled` "negative" shows no object. Crowds are not learned, or by `crowds`
    "objects" are single objects. Raises `BadData` for what would spoil training, with `masks` also where objects have
    none or one that cannot be read.
    """
    opened = {split: open_detection_split(data, split, unlabelled, crowds=crowds) for split in TRAINING_SPLITS}
    train, val = opened["train"], opened["val"]
    if train is None:
        raise BadData(f"{data}: no annotated images to train on; the layouts are\n{LAYOUTS}")
    notices = [notice for split, part in opened.items() if part for notice in detection_notices(split, part)]
    images = train.images
    if val is None:
        images, held_out = hold_out(train.images, val_share, seed)
        if not len(held_out):
            raise BadData(
                f"{data}: no validation split, and none of {many(len(images), 'training image')} can be held out, for "
                "some must be left to train on; add images, or a val split"
            )
        notices.append(f"no validation split: held out {len(held_out)} of {len(train.images)} images")
    else:
        held_out = val.images
    if images.classes != held_out.classes:
        held_out = held_out.with_classes(images.classes, images.category_ids)
        notices.append("training and validation list other classes, or in another order: matched by their names")
    if masks:
        for part in (images, held_out):
            check_masks(part)
    return Splits(images, held_out, tuple(notices))


def check_masks(images: MarkedImages) -> None:
    """Raise `BadData` where an object has no mask, or one that cannot be read."""
    if isinstance(images, MarkedThings):
        return  # they are drawn from maps
    pairs = [(a, entry) for entry in images.entries for a in entry.annotations]
    if none := [pair for pair in pairs if not pair[0].get("segmentation") and not pair[0].get("iscrowd")]:
        first, entry = none[0]
        one = f"annotation {first['id']} of " if "id" in first else "one in "
        raise BadData(
            f"{images.root}: {len(none)} of {len(pairs)} objects have no mask, as {one}{entry.path}: not every object "
            "has a mask; draw polygons or run lengths, or train for detection"
        )
    for a, entry in pairs:
        if a.get("segmentation") and (reason := rle.fault(a["segmentation"], entry.height, entry.width)):
            raise BadData(f"{mask_place(a, entry)}: {reason}; correct or remove it")


def open_detection_split(
    data: Path, split: str, unlabelled: str = "leave-out", check: bool = True, crowds: str = "ignore"
) -> Opened | None:
    """One split, None where `data` has none of that name; without `check` with all that is wrong in it."""
    opened = _open_split(data, split, unlabelled, check)
    if opened is None:
        return None
    rows = [bool(a.get("iscrowd")) for entry in opened.images.entries for a in entry.annotations]
    if crowds == "objects":
        return replace(opened, images=opened.images.with_crowds_as_objects())
    if rows and sum(rows) > MOSTLY * len(rows):
        note = (
            f"{sum(rows)} of {len(rows)} annotations are crowds (iscrowd 1), of which nothing is learned; if they are "
            "single objects, as CVAT's brush masks are, give --crowds objects"
        )
        return replace(opened, notes=(*opened.notes, note))
    return opened


def _open_split(data: Path, split: str, unlabelled: str, check: bool) -> Opened | None:
    coco = open_coco(data, split, unlabelled, check)
    if coco is not None:
        return coco
    if known := find_format(data):
        return known.open(data, split, unlabelled, check)
    panoptic = open_panoptic(data, split, check)
    return None if panoptic is None else Opened(panoptic.images.marked(), panoptic.missing, (), 0)


def detection_notices(split: str, opened: Opened) -> list[str]:
    """What is said of a split that was opened."""
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
