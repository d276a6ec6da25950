"""Checks on what annotation files say of objects, without reading an image: made by training and by the doctor."""

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from featherbone.data.doctor_boxes import check_boxes
from featherbone.data.doctor_marks import Ints, Marks
from featherbone.data.findings import MOST, Example, Finding, check_balance, finding, grade, listed, many
from featherbone.data.formats.format import Opened
from featherbone.data.layouts import TRAINING_SPLITS
from featherbone.data.objects import ObjectSplit
from featherbone.ops import rle

IMBALANCE = 50
"""A largest class more than so many times the smallest is a warning."""


def check_objects(splits: Mapping[str, ObjectSplit], marks: Marks, task: str) -> Iterator[Finding]:
    """What the files say of the objects of `splits`, which are `marks`, for `task` detection or instance."""
    yield from _check_readable(marks)
    yield from _check_splits(marks)
    yield from _check_names(marks)
    yield from _check_ids(splits, marks)
    yield from _check_classes(marks, *count_objects(marks))
    yield from check_boxes(marks)
    if task == "instance":
        yield from check_mask_forms(marks)


def check_listing(split: str, opened: Opened) -> Iterator[Finding]:
    """What the folders hold and what the files list."""
    total = len(opened.images) + len(opened.missing)
    if missing := [Example((name,)) for name in opened.missing]:
        message = (
            f"{many(missing, 'image')} of {total:,} listed for {split} but not there, left out; bring back the files, "
            "or correct names and folder"
        )
        yield finding(grade(len(missing), total, MOST), f"missing-in-{split}", message, missing)
    if unlisted := [Example((name,)) for name in opened.unlisted]:
        message = (
            f"{many(unlisted, 'image')} in the {split} folder that the annotations do not list, left out; list them, "
            "or, if they show no object, give --unlabelled negative, for the network also learns from such images"
        )
        yield finding("warning", f"unlisted-in-{split}", message, unlisted)
    if opened.orphans:
        message = (
            f"{many(opened.orphans, 'annotation')} for {split} of an image that is not listed, left out; list the "
            "image or remove them"
        )
        entries = opened.images.entries if isinstance(opened.images, ObjectSplit) else ()
        count = opened.orphans + sum(len(entry) for entry in entries)
        yield Finding(grade(opened.orphans, count), f"orphans-in-{split}", message, opened.orphans)
    for note in opened.notes:
        yield Finding("note", f"read-in-{split}", f"{split}: {note}", 1)


def _check_readable(marks: Marks) -> Iterator[Finding]:
    """Annotations that cannot be read, each with place, reason and remedy."""
    if examples := [Example((name,), text) for name, of in zip(marks.names, marks.errors, strict=True) for text in of]:
        total = len(examples) + len(marks.image)
        message = f"{many(examples, 'annotation')} of {total:,} cannot be read; correct or remove them"
        yield finding("error", "unreadable-annotation", message, examples)


def _check_splits(marks: Marks) -> Iterator[Finding]:
    """Whether every split has objects, and what is not one to learn."""
    clear = marks.clear
    shown = marks.splits[marks.image[clear & marks.usable[marks.image]]]
    for split in dict.fromkeys(marks.splits.tolist()):
        if split not in shown:
            crowds = int((marks.crowd & (marks.splits[marks.image] == split)).sum())
            remedy = (
                f", but {many(crowds, 'crowd')}; if they are single objects, as CVAT's brush masks are, give --crowds "
                "objects"
                if crowds
                else "; mark some"
            )
            message = f"no object on any of {many(int((marks.splits == split).sum()), 'image')} of {split}{remedy}"
            yield Finding("error", f"no-objects-in-{split}", message, 0)
    shows = np.bincount(marks.image[clear], minlength=len(marks.entries)) > 0
    shows |= np.array([bool(errors) for errors in marks.errors], bool)
    if clear.any() and (empty := [Example((marks.names[i],)) for i in np.flatnonzero(~shows).tolist()]):
        message = (
            f"{many(empty, 'image')} of {len(shows):,} without objects, from which the network learns what is none; "
            "check that none was forgotten"
        )
        yield finding("note", "negatives", message, empty)
    if len(rows := np.flatnonzero(marks.crowd)):
        message = f"{many(len(rows), 'crowd')} of objects not taken apart: nothing is learned or counted there"
        yield marks.point("note", "crowds", message, rows)


def _check_names(marks: Marks) -> Iterator[Finding]:
    """Images listed again."""
    names, total = marks.names, len(marks.entries)
    times = Counter(zip(marks.splits.tolist(), names, strict=True))
    if twice := [Example((name,), many(count, "time")) for (_, name), count in times.items() if count > 1]:
        message = (
            f"{many(twice, 'image')} listed more than once in a split, each time with a part of its objects, the rest "
            "of which count as background; join the entries"
        )
        yield finding(grade(len(twice), total), "listed-twice", message, twice)


def check_mask_forms(marks: Marks) -> Iterator[Finding]:
    """Whether every object has a mask, in a form that can be read."""
    total = len(marks.boxes)
    faults: dict[int, str] = {}
    none: list[int] = []
    for row in range(total):
        entry, segmentation = marks.entries[marks.image[row]], marks.segmentation(row)
        if segmentation is not None and (fault := rle.fault(segmentation, entry.height, entry.width)):
            faults[row] = fault
        elif segmentation is None and not marks.crowd[row]:
            none.append(row)
    if faults:
        message = f"{many(len(faults), 'mask')} of {total:,} cannot be read; write polygons or run lengths as COCO does"
        rows = np.array(list(faults), np.int64)
        yield marks.point("error", "unreadable-mask", message, rows, lambda row: f"{marks.called(row)}: {faults[row]}")
    if none:
        message = (
            f"{many(len(none), 'object')} of {total:,} without a mask, which instance segmentation needs of every one; "
            "add or remove, or train for detection"
        )
        yield marks.point("error", "no-mask", message, np.array(none, np.int64))


def _check_ids(splits: Mapping[str, ObjectSplit], marks: Marks) -> Iterator[Finding]:
    """Ids of classes and annotations."""
    known = {split: dict(zip(images.category_ids, images.classes, strict=True)) for split, images in splits.items()}
    first, *others = known.values() or [{}]
    clash = [
        Example((f"id {i}",), f"{first[i]} in training, {other[i]} in validation")
        for other in others
        for i in first.keys() & other.keys()
        if first[i] != other[i]
    ]
    if clash:
        message = f"{many(clash, 'class id')} with one name in training and another in validation; names are matched"
        yield finding("note", "ids-differ", message, clash)
    of = marks.splits[marks.image]
    for split, names in known.items():
        rows = np.flatnonzero(of == split)
        used = Counter(marks.entries[marks.image[row]].category_ids[marks.place[row]] for row in rows.tolist())
        unknown = sorted(used.keys() - names.keys())
        step = next((s for s in (1, -1) if unknown and all(i + s in names for i in used)), 0)
        wrong = rows[marks.labels[rows] < 0]
        if step:
            message = (
                f"{split}: class ids run from {min(used)} to {max(used)}, but the classes are {min(names)} to "
                f"{max(names)}: all are shifted by one, so most objects have the name of another class; "
                f"{'add' if step > 0 else 'subtract'} 1 {'to' if step > 0 else 'from'} each"
            )
            yield marks.point("error", f"ids-shifted-in-{split}", message, rows)
        elif unknown:
            ids = listed([str(i) for i in unknown])
            message = (
                f"{split}: {many(len(wrong), 'object')} of {len(rows):,} with class ids that are not listed: {ids}; "
                "list the classes, or remove the objects"
            )
            yield marks.point("error", f"unknown-class-in-{split}", message, wrong)
        ids_of = Counter(i for row in rows.tolist() if (i := marks.number(row)) is not None)
        if twice := [Example((f"annotation {i}",), many(n, "time")) for i, n in ids_of.items() if n > 1]:
            message = (
                f"{split}: {many(twice, 'annotation id')} given more than once, of which other tools keep one; "
                "number the annotations anew"
            )
            yield finding("warning", f"duplicate-ids-in-{split}", message, twice)


def _check_classes(marks: Marks, train: Ints, val: Ints) -> Iterator[Finding]:
    """Names and numbers of the classes."""
    if unused := [Example((marks.classes[i],)) for i in np.flatnonzero((train == 0) & (val == 0)).tolist()]:
        message = (
            f"{many(unused, 'class', 'classes')} of {len(train):,} without an object: nothing can be learned of them; "
            "add objects or remove the class"
        )
        yield finding("warning", "unused-class", message, unused)
    yield from check_balance(marks.classes, train, val, "object", IMBALANCE)


def count_objects(marks: Marks) -> tuple[Ints, Ints]:
    """Objects of each class (K,) in training and validation."""
    known = marks.clear & (marks.labels >= 0)
    of = marks.splits[marks.image]
    train, val = (np.bincount(marks.labels[known & (of == s)], minlength=len(marks.classes)) for s in TRAINING_SPLITS)
    return train, val
