"""The errors of a detector by their cause, and the AP50 that each cause costs (TIDE, arXiv 2008.08115).

A detection that is not matched at IoU 0.5 has one cause: localisation, where the highest IoU with an object of its
class is from 0.1 to 0.5; classification, where that with an object of another class is at least 0.5; duplicate, where
its object has a match with a higher score; background, where no IoU exceeds 0.1; both, for all others. This is the
order in which the authors' code tests them. An object without a match is missed, unless a detection with an error of
classification or localisation is on it.

The cost of a cause is the rise of AP50 where all its errors are fixed: classes and boxes are corrected for the
highest-scoring detection of each object that has no match, other errors are removed, missed objects are not counted.
So the paper defines it; in the authors' code, errors of class and of box also compete for an object.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featherbone.metrics.counts import Floats, Ints

FOREGROUND, BACKGROUND = 0.5, 0.1
"""IoU of a match, and IoU up to which a detection is on no object."""
CAUSES = ("classification", "localisation", "both", "duplicate", "background", "missed")
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, NO_OBJECT, MISSED = range(len(CAUSES))
RIGHT = -1


class ImageErrors(NamedTuple):
    """The D detections of one image, those on crowds omitted, and its G objects without crowds."""

    scores: Floats
    labels: Ints
    causes: Ints
    """Index in `CAUSES` (D,), or `RIGHT`."""
    targets: Ints
    """The object that a detection matches, or would if it were fixed (D,); -1 for none."""
    objects: Ints
    """Classes (G,)."""
    found: NDArray[np.bool_]
    """Whether an object has a match (G,)."""


def find_errors(scores: Floats, labels: Ints, objects: Ints, crowd: NDArray[np.bool_], overlaps: Floats) -> ImageErrors:
    """The errors of one image from `overlaps` (D, G), IoU and, with a `crowd` (G,), the share of the detection."""
    order = np.argsort(-scores, kind="stable")
    scores, labels, overlaps = scores[order], labels[order], overlaps[order]
    kept, iou, of = np.ones(len(scores), bool), overlaps[:, ~crowd], objects[~crowd]
    same = labels[:, None] == of
    causes, targets, found = np.full(len(scores), BOTH), np.full(len(scores), -1), np.zeros(len(of), bool)
    on_crowd = ((labels[:, None] == objects[crowd]) & (overlaps[:, crowd] >= FOREGROUND)).any(1)
    for i, (here, own) in enumerate(zip(iou, same, strict=True)):
        free = np.where(own & ~found, here, -1)
        if free.max(initial=-1) >= FOREGROUND:
            targets[i], causes[i] = int(free.argmax()), RIGHT
            found[targets[i]] = True
            continue
        kept[i] = not on_crowd[i]
        nearest, other = np.where(own, here, -1), np.where(own, -1, here)
        if BACKGROUND <= nearest.max(initial=-1) < FOREGROUND:
            causes[i], targets[i] = LOCALISATION, int(nearest.argmax())
        elif other.max(initial=-1) >= FOREGROUND:
            causes[i], targets[i] = CLASSIFICATION, int(other.argmax())
        elif nearest.max(initial=-1) >= FOREGROUND:
            causes[i] = DUPLICATE
        elif here.max(initial=0) <= BACKGROUND:
            causes[i] = NO_OBJECT
    return ImageErrors(scores[kept], labels[kept], causes[kept], targets[kept], of, found)


def sum_errors(images: Iterable[ImageErrors], num_classes: int) -> dict[str, dict[str, Any]]:
    """Of each of `CAUSES` the `count` of errors, at any score, and the cost `dAP50`, from 0 to 1."""
    images = list(images)
    first = np.cumsum([0, *(len(image.objects) for image in images)])
    empty = ImageErrors(np.zeros(0), *4 * (np.zeros(0, np.int64),), np.zeros(0, bool))
    shifted = [
        one._replace(targets=np.where(one.targets < 0, -1, one.targets + start))
        for one, start in zip(images, first[:-1], strict=True)
    ]
    scores, labels, causes, targets, objects, found = map(np.concatenate, zip(empty, *shifted, strict=True))
    order = np.argsort(-scores, kind="stable")
    scores, labels, causes, targets = scores[order], labels[order], causes[order], targets[order]
    num_objects = np.bincount(objects, minlength=num_classes)
    classes = np.flatnonzero(num_objects)
    base = _mean_ap(labels, causes == RIGHT, num_objects, classes)
    missed = ~found
    missed[targets[np.isin(causes, (CLASSIFICATION, LOCALISATION))]] = False
    results = {}
    for cause, name in enumerate(CAUSES[:MISSED]):
        errors = causes == cause
        fixed = np.zeros(len(scores), bool)
        if cause in (CLASSIFICATION, LOCALISATION):
            usable = np.flatnonzero(errors)
            usable = usable[~found[targets[usable]]]
            fixed[usable[np.unique(targets[usable], return_index=True)[1]]] = True  # the highest-scoring of an object
        kept = ~errors | fixed
        corrected = labels.copy()
        corrected[fixed] = objects[targets[fixed]]
        after = _mean_ap(corrected[kept], ((causes == RIGHT) | fixed)[kept], num_objects, classes)
        results[name] = {"count": int(errors.sum()), "dAP50": after - base}
    left = num_objects - np.bincount(objects[missed], minlength=num_classes)
    after = _mean_ap(labels, causes == RIGHT, left, classes)
    return {**results, CAUSES[MISSED]: {"count": int(missed.sum()), "dAP50": after - base}}


def _mean_ap(labels: Ints, right: NDArray[np.bool_], objects: Ints, classes: Sequence[int] | Ints) -> float:
    """The mean over `classes` of precision at 101 recalls; detections are by descending score, `objects` are (K,)."""
    recalls, values = np.linspace(0, 1, 101), []
    for label in classes:
        hits = right[labels == label].cumsum()
        precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
        places = (hits / max(objects[label], 1)).searchsorted(recalls)
        values.append(precision[places[places < len(hits)]].sum() / len(recalls))
    return float(np.mean(values)) if values else 0.0
