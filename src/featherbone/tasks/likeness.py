"""How two records of one image compare: those of a model and of a file made from it.

Extremes are NumPy's, which are NaN if a value is: Python's `max` and `min` would skip it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from featherbone.ops import rle
from featherbone.results import Classification, Detections, Instances, LabelSet, PanopticMap, SemanticMap

SCORE = 1e-3
"""Tolerance of a score."""
FULL = 100
"""Maximum number of objects that heads return."""


@dataclass(frozen=True)
class Likeness:
    """How the records of one image, or of several images, compare; None where a measure does not apply."""

    score: float | None = None
    """Maximum difference of the score of a class or an object."""
    box_iou: float | None = None
    """Minimum IoU of a box and its counterpart."""
    mask_iou: float | None = None
    """Minimum IoU of a mask and its counterpart: over their boxes, where the records state probabilities."""
    agreement: float | None = None
    """Share of pixels with the same class, or in the same segment."""
    unmatched: int = 0
    """Objects in one record only, by more than the tolerance of the score; or other top classes."""
    objects: int = 0
    """Objects that were compared."""


def compare_classes(mine: Classification, theirs: Classification, score: float = SCORE, limit: float = 0.0) -> Likeness:
    """Two classifications that hold every class; top classes within `score` of each other are ties."""
    own, other = (dict(zip(record.labels, record.scores, strict=True)) for record in (mine, theirs))
    gap = float(np.max([abs(value - other[label]) for label, value in own.items()]))
    tie = abs(mine.score - own[theirs.label]) <= score
    return Likeness(score=gap, unmatched=int(mine.label != theirs.label and not tie))


def compare_labels(mine: LabelSet, theirs: LabelSet, score: float = SCORE, limit: float = 0.0) -> Likeness:
    """Two sets of labels by the scores of their classes; a class that is missing has the score 0."""
    own, other = (dict(zip(record.labels, record.scores, strict=True)) for record in (mine, theirs))
    gaps = [abs(own.get(i, 0.0) - other.get(i, 0.0)) for i in own.keys() | other]
    return Likeness(score=float(np.max(gaps, initial=0.0)))


def compare_objects(mine: Detections, theirs: Detections, score: float = SCORE, limit: float = 0.0) -> Likeness:
    """Two detections, which may also have masks; objects less than `score` above `limit` may be missing in one.

    From the highest score down, each object's counterpart is the free one of its class with the highest IoU.
    """
    if not len(mine) and not len(theirs):
        return Likeness()
    iou = box_iou(*(torch.tensor(r.boxes, dtype=torch.float64).reshape(-1, 4) for r in (mine, theirs))).numpy()
    labels = np.array(mine.labels)[:, None] == np.array(theirs.labels)[None]
    free = np.where(labels, iou, -1.0)
    pairs = []
    for i in range(len(mine)):
        if free.shape[1] and (j := int(free[i].argmax())) is not None and free[i, j] > 0.5:
            pairs.append((i, j))
            free[:, j] = -1
    matched = [{i for i, _ in pairs}, {j for _, j in pairs}]
    full = max(len(mine), len(theirs)) >= FULL
    minimum = score + (min((*mine.scores, *theirs.scores)) if full else limit)  # below, either may lack an object
    unmatched = sum(
        not value <= minimum
        for record, known in zip((mine, theirs), matched, strict=True)
        for i, value in enumerate(record.scores)
        if i not in known
    )
    found = Likeness(unmatched=unmatched, objects=len(pairs))
    if not pairs:
        return found
    gap = float(np.max([abs(mine.scores[i] - theirs.scores[j]) for i, j in pairs]))
    found = replace(found, score=gap, box_iou=float(np.min([iou[pair] for pair in pairs])))
    if isinstance(mine, Instances) and isinstance(theirs, Instances):
        masks = [_mask_iou(_mask(mine, i), _mask(theirs, j)) for i, j in pairs]
        found = replace(found, mask_iou=float(np.min(masks)))
    return found


def compare_class_maps(mine: SemanticMap, theirs: SemanticMap, score: float = SCORE, limit: float = 0.0) -> Likeness:
    """Two maps of classes; `score` and `limit` have no effect."""
    return Likeness(agreement=float((mine.labels == theirs.labels).mean()))


def compare_segments(mine: PanopticMap, theirs: PanopticMap, score: float = SCORE, limit: float = 0.0) -> Likeness:
    """Two maps of segments: pixels agree in segments of one class that are each other's largest part.

    `score` and `limit` have no effect.
    """
    pairs, places = np.unique(np.stack([mine.ids.ravel(), theirs.ids.ravel()]), axis=1, return_inverse=True)
    counts = np.bincount(places.ravel())
    classes: list[dict[int, int]] = [{0: -1} | {s.id: s.label for s in record.segments} for record in (mine, theirs)]
    best: list[dict[int, tuple[int, int]]] = [{}, {}]
    for (a, b), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
        for side, key, other in ((0, a, b), (1, b, a)):
            best[side][key] = max(best[side].get(key, (0, 0)), (count, other))
    same = 0
    for (a, b), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
        mutual = best[0][a][1] == b and best[1][b][1] == a
        same += count if mutual and classes[0][a] == classes[1][b] else 0
    return Likeness(agreement=same / mine.ids.size, objects=len(mine.segments))


def count_objects(records: Sequence[Any]) -> int:
    """Objects or segments of some records."""
    return sum(len(getattr(record, "boxes", ()) or getattr(record, "segments", ())) for record in records)


def _mask_iou(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The sum of the smaller values divided by that of the larger ones: for masks in pixels, intersection over union.

    Probabilities change with rounding only by its size, while pixels near the threshold change sides: a pixel is 0.02
    of a mask of fifty.
    """
    whole = np.maximum(a, b).sum()
    return float(np.nan_to_num(np.minimum(a, b).sum() / whole)) if whole else 1.0


def _mask(record: Instances, i: int) -> NDArray[Any]:
    return rle.decode(record.masks[i]) if record.probabilities is None else record.probabilities[i]
