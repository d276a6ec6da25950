"""The images that a model, or another tool's results, are measured on: one split, opened without the others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherbone.data import classification, splits
from featherbone.data.classification import open_split
from featherbone.data.detection import open_detection_split
from featherbone.data.doctor_marks import gather
from featherbone.data.findings import notices, refuse
from featherbone.data.layouts import ALL, SPLITS, has_splits
from featherbone.data.object_checks import check_listing, check_mask_forms
from featherbone.data.panoptic import MarkedThings
from featherbone.data.segmentation import check_files, open_segmentation_split
from featherbone.errors import BadData


@dataclass(frozen=True)
class Measured:
    """One split: its images, its name, and what was noticed on opening."""

    images: Any
    split: str
    notices: tuple[str, ...] = ()


def open_measured(
    data: Path,
    task: str,
    split: str | None,
    reading: Mapping[str, Any],
    is_held_out: Callable[[Any], bool] = lambda images: False,
) -> Measured:
    """The images of `split`; by default of val, or all where the folder has no splits.

    `reading` are the settings that say how data is read. `is_held_out` recognises the images that a run held out of
    its training images: they are then its val split, and the rest is train. Raises `BadData` where there is no such
    split.
    """
    opened = _open(data, task, split or "val", reading)
    if opened is not None and split != "train":
        return opened
    train = opened or (_open(data, task, "train", reading) if split in (None, "val") else None)
    if train is not None and (split != "train" or _open(data, task, "val", reading) is None):
        rest, held_out = _hold_out(task, train.images, reading)
        if len(held_out) and is_held_out(held_out):
            images, of = (rest, "train") if split == "train" else (held_out, "val")
            return Measured(images, of, (f"no validation split: the {of} images are those of the run's training",))
    if train is not None and split == "train":
        return train
    if train is not None and split is None and not has_splits(data):
        notice = f"no splits: all {len(train.images)} images are measured, even those that it was trained on"
        return Measured(train.images, ALL, (*train.notices, notice))
    there = [other for other in SPLITS if other != split and _open(data, task, other, reading) is not None]
    remedy = f"choose one with --split {' or '.join(there)}" if there else "give a folder with images to measure on"
    raise BadData(f"{data}: no {split or 'val'} split; {remedy}")


def _open(data: Path, task: str, split: str, reading: Mapping[str, Any]) -> Measured | None:
    """One split as the task reads it; None where there is none of that name, or no image in it."""
    if task == "classification":
        found = open_split(data, split)
        return Measured(found[0], split) if found and len(found[0]) else None
    if task in ("detection", "instance"):
        unlabelled, crowds = reading.get("unlabelled", "leave-out"), reading.get("crowds", "ignore")
        marked = open_detection_split(data, split, unlabelled, crowds=crowds)
        if marked is None or not len(marked.images):
            return None
        findings = list(check_listing(split, marked))
        if task == "instance" and not isinstance(marked.images, MarkedThings):
            findings += check_mask_forms(gather({split: marked.images}, pictures=False))
        refuse(findings, data)
        return Measured(marked.images, split, notices(findings))
    code = reading.get("ignore_index"), reading.get("zero_ignored", False)
    maps = open_segmentation_split(data, task, split, *code)
    if maps is None or not len(maps.images):
        return None
    findings = list(check_files(split, maps))
    refuse(findings, data)
    return Measured(maps.images, split, notices(findings))


def _hold_out(task: str, images: Any, reading: Mapping[str, Any]) -> tuple[Any, Any]:
    """The parts for training and validation of images that have no validation split, as a run divides them."""
    if "val_share" not in reading or len(images) < 2:
        return images, ()
    divide: Callable[..., Any] = classification.hold_out if task == "classification" else splits.hold_out
    return divide(images, reading["val_share"], reading["seed"])
