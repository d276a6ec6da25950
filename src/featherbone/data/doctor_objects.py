"""Every check on the images, boxes and masks of a data set for detection or instance segmentation, before training."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from featherbone.data.dataset import inspect_data
from featherbone.data.doctor_boxes import box_iou, check_masks, check_sizes, facts_at
from featherbone.data.doctor_marks import Marks, gather
from featherbone.data.findings import (
    MAX_EXAMPLES,
    Examination,
    Example,
    Finding,
    check_kinds,
    check_leaks,
    check_left,
    check_readable,
    finding,
    grade,
    illustrate,
    many,
    sort_copies,
    worst_first,
)
from featherbone.data.formats.format import Reading
from featherbone.data.formats.panoptic import ThingSplit
from featherbone.data.object_checks import check_objects, count_objects
from featherbone.data.objects import ObjectSplit

COMPARED = 1000
"""Objects in an image up to which each is compared with each of a copy."""


def examine_objects(
    data: Path, task: str, input_size: int, val_share: float = 0.2, seed: int = 0, **reading: Any
) -> Examination:
    """Read every image of `data` once and report all that is wrong for `task`, detection or instance.

    `input_size` is the height and width of the network's input in pixels; `reading` are fields of
    `Reading`, and images are split as in training by `val_share` and `seed`. A problem never ends the examination.
    """
    splits, findings = inspect_data(data, task, val_share, seed, Reading(**reading))
    objects = {split: images for split, images in splits.items() if isinstance(images, ObjectSplit)}
    return examine_marked(str(data), objects, task, input_size, findings)


def examine_marked(
    data: str, splits: Mapping[str, ObjectSplit], task: str, input_size: int, found: Sequence[Finding] = ()
) -> Examination:
    """The same of splits that are open already; `found` are findings of opening them."""
    splits = {s: images.drawn() if isinstance(images, ThingSplit) else images for s, images in splits.items()}
    marks = gather(splits, masks=task == "instance")
    train, val = count_objects(marks)
    findings = list(found)
    findings += check_objects(splits, marks, task)
    findings += check_left(marks.splits.tolist(), np.flatnonzero(marks.usable).tolist())
    findings += _check_files(marks)
    findings += check_masks(marks) if task == "instance" else ()
    findings += check_sizes(marks, input_size)
    findings += _check_copies(marks)
    places = {name: i for i, name in reversed(list(enumerate(marks.names)))}

    def draw(name: str) -> bytes:
        return marks.draw(places[name]) if name in places else b""

    counts = {"train": tuple(train.tolist()), "val": tuple(val.tolist())}
    shown = illustrate(worst_first(findings), draw)
    return Examination(data, marks.classes, counts, shown, facts_at(marks, input_size))


def _check_files(marks: Marks) -> Iterator[Finding]:
    """Each image for itself, and against what its annotations say of it."""
    names, total = marks.names, len(marks.entries)
    yield from check_readable(names, marks.looks)
    off: list[Example] = []
    sideways: list[Example] = []
    upright: list[Example] = []
    for entry, look in zip(marks.entries, marks.looks, strict=True):
        if isinstance(look, str):
            continue
        size, stated = (look.width, look.height), (entry.width, entry.height)
        example = Example((entry.path,), f"{look.width} x {look.height}, annotated as {entry.width} x {entry.height}")
        if look.orientation >= 5 and size != stated and size == stated[::-1]:
            sideways.append(example)
        elif size != stated:
            off.append(example)
        elif look.orientation > 1:
            upright.append(Example((entry.path,), f"EXIF orientation {look.orientation}"))
    if sideways:
        message = (
            f"{many(sideways, 'image')} of {total:,} that EXIF turns upright, but annotated as stored, so the boxes "
            "lie elsewhere, left out; turn the boxes, or save the images without EXIF orientation"
        )
        yield finding(grade(len(sideways), total), "annotated-sideways", message, sideways)
    if off:
        message = (
            f"{many(off, 'image')} of {total:,} of another size than annotated, left out; annotate the images that "
            "are there, or scale the boxes with them"
        )
        yield finding(grade(len(off), total), "size-mismatch", message, off)
    if upright:
        message = (
            f"{many(upright, 'image')} turned upright by the EXIF orientation; boxes are taken to be of the upright "
            "image: check one"
        )
        yield finding("note", "exif-rotated", message, upright)
    yield from check_kinds(names, marks.looks)


def _check_copies(marks: Marks) -> Iterator[Finding]:
    """Copies in both splits, those marked differently, and the rest."""
    splits, names = marks.splits.tolist(), marks.names
    last = {pair: i for i, pair in enumerate(zip(splits, names, strict=True))}
    differing, leaks, spare = sort_copies(marks.looks, last.values(), splits, partial(_same_objects, marks))
    if differing:
        message = (
            f"{many(differing, 'image')} with a copy on which other objects are marked; keep the right one, or, if "
            "they are frames of one scene, keep those in one split"
        )
        examples = [
            Example((names[one], names[i]), pictures=(marks.draw(one), marks.draw(i)) if at < MAX_EXAMPLES else ())
            for at, (one, i) in enumerate(differing)
        ]
        yield finding("warning", "copies-marked-differently", message, examples)
    yield from check_leaks(names, splits, leaks, spare, "split")


def _same_objects(marks: Marks, one: int, other: int) -> bool:
    """Whether each object of either image has one of its class, IoU above a half, on the other."""
    rows, others = (np.flatnonzero((marks.image == i) & marks.clear) for i in (one, other))
    if len(rows) != len(others):
        return False
    boxes, other_boxes = (marks.boxes[r] / np.tile(marks.limits[r], 2) for r in (rows, others))
    if len(rows) > COMPARED:  # one by one in the order of their places
        orders = [np.lexsort((*x.T, marks.labels[r])) for x, r in ((boxes, rows), (other_boxes, others))]
        same = marks.labels[rows[orders[0]]] == marks.labels[others[orders[1]]]
        return bool(same.all() and np.abs(boxes[orders[0]] - other_boxes[orders[1]]).max() < 0.01)
    match = (box_iou(boxes, other_boxes) > 0.5) & (marks.labels[rows][:, None] == marks.labels[others])
    return bool(match.any(0).all() and match.any(1).all())
