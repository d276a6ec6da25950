"""A folder of images with marked objects, in COCO's, YOLO's or COCO panoptic's layout, opened for training."""

from dataclasses import replace
from pathlib import Path

from featherbone.data.coco import open_coco
from featherbone.data.doctor_marks import gather
from featherbone.data.findings import Finding, notices, refuse
from featherbone.data.formats import find_format
from featherbone.data.layouts import TRAINING_SPLITS
from featherbone.data.object_checks import check_listing, check_objects
from featherbone.data.objects import MarkedImages, Opened
from featherbone.data.panoptic import MarkedThings, open_panoptic
from featherbone.data.segmentation import check_segments
from featherbone.data.splits import Splits, hold_out, settle
from featherbone.errors import BadData

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
    splits, findings = inspect_detection(data, val_share, seed, unlabelled, crowds)
    marked: list[Finding] = []
    if not any(isinstance(images, MarkedThings) for images in splits.values()):
        marked += check_objects(splits, gather(splits, pictures=False), "instance" if masks else "detection")
    refuse([*findings, *marked], data)
    return Splits(splits["train"], splits["val"], notices(findings), notices(marked))


def inspect_detection(
    data: Path, val_share: float = 0.2, seed: int = 0, unlabelled: str = "leave-out", crowds: str = "ignore"
) -> tuple[dict[str, MarkedImages], list[Finding]]:
    """The splits that training takes, as far as they can be opened, and what was noticed on opening them.

    A problem is a finding and never raises.
    """
    splits: dict[str, MarkedImages] = {}
    findings: list[Finding] = []
    for split in TRAINING_SPLITS:
        try:
            opened = open_detection_split(data, split, unlabelled, check=False, crowds=crowds)
            if opened:
                splits[split] = opened.images
                findings += check_listing(split, opened)
        except BadData as error:
            findings.append(Finding("error", "unreadable-split", str(error).removeprefix(f"{data}: "), 1))
    things = {split: images for split, images in splits.items() if isinstance(images, MarkedThings)}
    findings += check_segments({split: images.source for split, images in things.items()}, "detection")
    for split, images in things.items():
        if all(a["iscrowd"] for entry in images.entries for a in entry.annotations):
            findings.append(Finding("error", f"no-things-in-{split}", f"no thing on an image of {split}; mark some", 0))
    if len(splits) == 2 and splits["train"].classes != splits["val"].classes and not things:
        train = splits["train"]
        try:
            splits["val"] = splits["val"].with_classes(train.classes, train.category_ids)
            message = "training and validation list other classes, or in another order: matched by their names"
            findings.append(Finding("note", "classes-matched", message, 1))
        except BadData as error:
            findings.append(Finding("error", "classes-differ", str(error).removeprefix(f"{data}: "), 1))
    settle(splits, findings, hold_out, val_share, seed)
    return splits, findings


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
