"""A data folder opened for a task: the splits that training takes, or the one that is evaluated."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featherbone.data.doctor.checks import check_annotations
from featherbone.data.doctor.object_checks import check_listing, check_mask_forms
from featherbone.data.doctor.table import collect
from featherbone.data.findings import Finding, listed, many, notices, refuse
from featherbone.data.formats import find_format, open_split, read_split
from featherbone.data.formats.format import Opened, Reading
from featherbone.data.formats.panoptic import ThingSplit
from featherbone.data.layouts import ALL, LAYOUTS, SPLITS, TRAINING_SPLITS, has_splits
from featherbone.data.object_split import ObjectSplit
from featherbone.data.split import Split, hold_out
from featherbone.errors import BadData


@dataclass(frozen=True)
class DataSet:
    """The two splits that training takes."""

    train: Split[Any]
    val: Split[Any]
    notices: tuple[str, ...] = ()
    """What was noticed when the files were opened."""
    warnings: tuple[str, ...] = ()
    """What is unusual about the annotations, but can be trained on."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their indices."""
        return self.train.classes

    def fingerprint(self) -> str:
        """A hash of both splits, independent of where the folder is."""
        return self.train.joint_fingerprint(self.val)


@dataclass(frozen=True)
class EvaluationSplit:
    """One split to evaluate on."""

    images: Split[Any]
    split: str
    """Its name; `ALL` for the images of a folder without splits."""
    notices: tuple[str, ...] = ()


def open_data(data: Path, task: str, val_share: float = 0.2, seed: int = 0, reading: Reading | None = None) -> DataSet:
    """Both splits of a folder for training, checked against each other.

    Without a validation split, `val_share` of the training images is held out by `seed`. Raises `BadData` for the first
    error that would spoil training.
    """
    splits, findings = inspect_data(data, task, val_share, seed, reading)
    refuse(findings, data)
    checked = check_annotations(splits, task)
    refuse(checked, data)
    return DataSet(splits["train"], splits["val"], notices(findings), notices(checked))


def inspect_data(
    data: Path, task: str, val_share: float = 0.2, seed: int = 0, reading: Reading | None = None
) -> tuple[dict[str, Split[Any]], list[Finding]]:
    """The splits that training takes, as far as they can be opened, and what is wrong with them; no image is read.

    A problem is a finding and never raises.
    """
    splits: dict[str, Split[Any]] = {}
    findings: list[Finding] = []
    try:
        reader = find_format(data, task)
    except BadData as error:
        return {}, [Finding("error", "unreadable-split", str(error).removeprefix(f"{data}: "), 1)]
    for split in TRAINING_SPLITS:
        try:
            opened = None if reader is None else read_split(reader, data, task, split, reading or Reading())
        except BadData as error:
            findings.append(Finding("error", "unreadable-split", str(error).removeprefix(f"{data}: "), 1))
            continue
        if opened is not None:
            splits[split] = opened.images
            findings += check_opened(split, opened)
    if len(splits) == 2:
        splits["train"], splits["val"], noticed = splits["val"].matched(splits["train"])
        findings += noticed
    train, val = splits.get("train"), splits.get("val")
    broken = any(one.severity == "error" for one in findings)
    if not train and not broken:
        findings.append(Finding("error", "no-images", f"no training images; the layouts are\n{LAYOUTS}", 0))
    elif train and val is None and not broken:
        splits["train"], splits["val"] = hold_out(train, val_share, seed)
        findings += _check_held_out(len(splits["val"]), len(train))
    elif train and val is not None and not val:
        message = "no image in the validation split; add some, or remove the split, and a share of train is held out"
        findings.append(Finding("error", "no-validation-images", message, 0))
    return splits, findings


def _check_held_out(count: int, total: int) -> Iterator[Finding]:
    if not count:
        message = (
            f"no validation split, and none of {many(total, 'training image')} can be held out, because some must "
            "remain to train on; add images, or a val split"
        )
        yield Finding("error", "nothing-to-hold-out", message, total)
    yield Finding("note", "no-validation", f"no validation split: held out {count} of {total} images", count)


def check_opened(split: str, opened: Opened) -> list[Finding]:
    """The content of the files of a split, and what is missing."""
    listing = check_listing(split, opened) if isinstance(opened.images, ObjectSplit) else ()
    return [*listing, *opened.findings]


def open_evaluation(
    data: Path,
    task: str,
    split: str | None,
    settings: Mapping[str, Any],
    is_held_out: Callable[[Any], bool] = lambda images: False,
) -> EvaluationSplit:
    """The images of `split`; by default of val, or all where the folder has no splits. No other split is opened.

    `settings` are those of the run. `is_held_out` recognises the images that a run held out of its training images:
    they are its val split, and the rest is train. Raises `BadData` where there is no such split.
    """
    opened = open_checked(data, task, split or "val", settings)
    if opened is not None and split != "train":
        return opened
    train = opened or (open_checked(data, task, "train", settings) if split in (None, "val") else None)
    if train is not None and (split != "train" or open_checked(data, task, "val", settings) is None):
        if "val_share" in settings and len(train.images) > 1:
            seed = settings["seed"] if settings.get("val_seed") is None else settings["val_seed"]
            rest, held_out = hold_out(train.images, settings["val_share"], seed)
            if len(held_out) and is_held_out(held_out):
                images, of = (rest, "train") if split == "train" else (held_out, "val")
                notice = f"no validation split: the {of} images are those of the run's training"
                return EvaluationSplit(images, of, (notice,))
    if train is not None and split == "train":
        return train
    if train is not None and split is None and not has_splits(data):
        notice = f"no splits: evaluated on all {len(train.images)} images, also those that it was trained on"
        return EvaluationSplit(train.images, ALL, (*train.notices, notice))
    there = [other for other in SPLITS if other != split and open_checked(data, task, other, settings) is not None]
    remedy = f"choose one with --split {' or '.join(there)}" if there else "pass a folder with images to evaluate on"
    raise BadData(f"{data}: no {split or 'val'} split; {remedy}")


def open_checked(data: Path, task: str, split: str, settings: Mapping[str, Any]) -> EvaluationSplit | None:
    """One split; None where there is none of that name, or no image in it."""
    opened = open_split(data, task, split, Reading.of(settings))
    if opened is None:
        return None
    images, findings = opened.images, check_opened(split, opened)
    if isinstance(images, ObjectSplit) and not isinstance(images, ThingSplit):
        _refuse_unreadable(images)
        if task == "instance" and len(images):
            findings += check_mask_forms(collect({split: images}, task, pixels=False))
    refuse(findings, data)
    return EvaluationSplit(images, split, notices(findings)) if len(images) else None


def _refuse_unreadable(images: ObjectSplit) -> None:
    """Raise `BadData` for the first annotation that cannot be read, or is of an unknown class."""
    table = images.table
    if table.errors:
        raise BadData(table.errors[min(table.errors)][0])
    for row in np.flatnonzero(table.labels < 0).tolist():
        index = int(table.owners[row])
        called = images.entry(index).called(row - int(table.first[index]))
        raise BadData(
            f"{images.name(index)}: {called} is of category {table.category_ids[row]}; listed are "
            f"{listed([str(number) for number in images.category_ids])}; list it, or remove the annotation"
        )
