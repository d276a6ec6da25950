"""Every check on the images, boxes and masks of a data set for detection or instance segmentation, before training."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from featherbone.data.detection import open_detection_split
from featherbone.data.doctor_boxes import box_iou, check_boxes, check_masks, check_sizes, facts_at
from featherbone.data.doctor_marks import Ints, Marks, gather
from featherbone.data.findings import (
    MAX_EXAMPLES,
    Examination,
    Example,
    Finding,
    check_balance,
    check_kinds,
    check_leaks,
    check_readable,
    finding,
    grade,
    illustrate,
    listed,
    many,
    sort_copies,
    worst_first,
)
from featherbone.data.layouts import LAYOUTS, TRAINING_SPLITS
from featherbone.data.objects import MarkedImages, Opened
from featherbone.errors import BadData

COMPARED = 1000
"""Objects in an image up to which each is compared with each of a copy."""
IMBALANCE = 50
"""A largest class more than so many times the smallest is a warning."""


def examine_objects(data: Path, task: str, input_size: int, crowds: str = "ignore") -> Examination:
    """Read every image of `data` once and report all that is wrong for `task`, detection or instance.

    `input_size` is the height and width of the network's input in pixels, `crowds` is that of `open_detection`. A
    problem never ends the examination.
    """
    splits: dict[str, MarkedImages] = {}
    findings: list[Finding] = []
    for split in TRAINING_SPLITS:
        try:
            opened = open_detection_split(data, split, check=False, crowds=crowds)
        except BadData as error:
            findings.append(Finding("error", "unreadable-split", str(error), 1))
            continue
        if opened:
            splits[split] = opened.images
            findings += _check_listing(split, opened)
    return examine_marked(str(data), splits, task, input_size, findings)


def examine_marked(
    data: str, splits: Mapping[str, MarkedImages], task: str, input_size: int, found: Sequence[Finding] = ()
) -> Examination:
    """The same of splits that are open already; `found` are findings of opening them."""
    marks = gather(splits, masks=task == "instance")
    train, val = _count(marks)
    findings = list(found)
    findings += _check_readable(marks)
    findings += _check_splits(marks)
    findings += _check_files(marks)
    findings += _check_ids(splits, marks)
    findings += _check_classes(marks, train, val)
    findings += check_boxes(marks)
    findings += check_masks(marks) if task == "instance" else ()
    findings += check_sizes(marks, input_size)
    findings += _check_copies(marks)
    places = {name: i for i, name in reversed(list(enumerate(marks.names)))}

    def draw(name: str) -> bytes:
        return marks.draw(places[name]) if name in places else b""

    counts = {"train": tuple(train.tolist()), "val": tuple(val.tolist())}
    shown = illustrate(worst_first(findings), draw)
    return Examination(data, marks.classes, counts, shown, facts_at(marks, input_size))


def _count(marks: Marks) -> tuple[Ints, Ints]:
    """Objects of each class (K,) in training and validation."""
    known = marks.clear & (marks.labels >= 0)
    of = marks.splits[marks.image]
    train, val = (np.bincount(marks.labels[known & (of == s)], minlength=len(marks.classes)) for s in TRAINING_SPLITS)
    return train, val


def _check_listing(split: str, opened: Opened) -> Iterator[Finding]:
    """What the folders hold and what the files list."""
    total = len(opened.images) + len(opened.missing)
    if missing := [Example((name,)) for name in opened.missing]:
        message = (
            f"{many(missing, 'image')} of {total:,} listed for {split} but not there, left out; bring back the files, "
            "or correct names and folder"
        )
        yield finding(grade(len(missing), total), f"missing-in-{split}", message, missing)
    if unlisted := [Example((name,)) for name in opened.unlisted]:
        message = (
            f"{many(unlisted, 'image')} in the {split} folder that the annotations do not list, left out; list those "
            "without objects too, for the network learns from them what is none, or remove them"
        )
        yield finding("warning", f"unlisted-in-{split}", message, unlisted)
    if opened.orphans:
        message = (
            f"{many(opened.orphans, 'annotation')} for {split} of an image that is not listed, left out; list the "
            "image or remove them"
        )
        count = opened.orphans + sum(len(entry.annotations) for entry in opened.images.entries)
        yield Finding(grade(opened.orphans, count), f"orphans-in-{split}", message, opened.orphans)
    for note in opened.notes:
        yield Finding("note", f"read-in-{split}", note, 1)


def _check_readable(marks: Marks) -> Iterator[Finding]:
    """Annotations that cannot be read, each with place, reason and remedy."""
    if examples := [Example((name,), text) for name, of in zip(marks.names, marks.errors, strict=True) for text in of]:
        total = len(examples) + len(marks.image)
        message = f"{many(examples, 'annotation')} of {total:,} cannot be read; correct or remove them"
        yield finding("error", "unreadable-annotation", message, examples)


def _check_splits(marks: Marks) -> Iterator[Finding]:
    """Whether there is anything to train and validate on, and what is no object to learn."""
    train, clear = marks.splits == "train", marks.clear
    if not train.any():
        yield Finding("error", "no-images", f"no training images; the layouts are\n{LAYOUTS}", 0)
    elif not train[marks.image[clear]].any():
        message = f"no object on any of {int(train.sum()):,} training images; mark some"
        yield Finding("error", "no-objects", message, 0)
    if not (marks.splits == "val").any():
        message = "no validation images: a share of the training images will be held out, copies of them included"
        yield Finding("note", "no-validation", message, 0)
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
    times = Counter(zip(marks.splits.tolist(), names, strict=True))
    if twice := [Example((name,), many(count, "time")) for (_, name), count in times.items() if count > 1]:
        message = (
            f"{many(twice, 'image')} listed more than once in a split, each time with a part of its objects, the rest "
            "of which count as background; join the entries"
        )
        yield finding(grade(len(twice), total), "listed-twice", message, twice)
    yield from check_kinds(names, marks.looks)


def _check_ids(splits: Mapping[str, MarkedImages], marks: Marks) -> Iterator[Finding]:
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
    if "train" in splits and "val" in splits:
        labels = {a["label"] for entry in splits["val"].entries for a in entry.annotations} - {-1}
        names_used = [splits["val"].classes[label] for label in sorted(labels)]
        if strange := [Example((name,)) for name in names_used if name not in splits["train"].classes]:
            message = (
                f"{many(strange, 'class', 'classes')} of validation objects not listed in training; list the same "
                "classes in both, under the same names"
            )
            yield finding("error", "classes-differ", message, strange)
    of = marks.splits[marks.image]
    for split, names in known.items():
        rows = np.flatnonzero(of == split)
        used = Counter(int(marks.annotation(row)["category_id"]) for row in rows.tolist())
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
        ids_of = Counter(i for row in rows.tolist() if (i := marks.annotation(row).get("id")) is not None)
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
