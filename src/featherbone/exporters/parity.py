"""Whether an exported file and its model say the same of real images, after decoding."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from featherbone.ops import rle
from featherbone.results import Classification, Detections, Instances, PanopticMap, Record, SemanticMap

FULL = 100
"""Objects beyond which heads tell of no more."""

EDGE = 2
"""Pixels of a mask that rounding may move across its threshold: of fifty, one alone would cost 0.02 of IoU."""


@dataclass(frozen=True)
class Bounds:
    """How far a file may be from its model."""

    score: float = 1e-3
    """Largest difference of a score."""
    box_iou: float = 0.99
    """Least IoU of a box and its own counterpart."""
    mask_iou: float = 0.98
    """Least IoU of a mask and its counterpart, `EDGE` pixels forgiven."""
    agreement: float = 0.999
    """Least share of an image's pixels that have the same class, or are in the same segment."""
    raw: float = 1e-3
    """Largest difference of a raw value, in root mean squares of its tensor."""


@dataclass(frozen=True)
class Likeness:
    """How one image's records, or several images', compare; what does not apply is None."""

    score: float | None = None
    """Largest difference of the score of a class or an object."""
    box_iou: float | None = None
    mask_iou: float | None = None
    """Least of the objects', `EDGE` pixels forgiven."""
    agreement: float | None = None
    unmatched: int = 0
    """Objects that one finds and the other does not, by more than the bound of the score; or other best classes."""
    objects: int = 0
    """Objects that were compared."""


@dataclass(frozen=True)
class Parity:
    """Differences between a model and its exported file over a number of images."""

    images: int
    worst: Likeness
    median: Likeness
    raw: float
    """Largest difference of a raw value, in root mean squares of its tensor."""
    bounds: Bounds = Bounds()

    @property
    def failures(self) -> list[str]:
        """What is beyond the bounds, in words."""
        worst, bounds = self.worst, self.bounds
        found = [] if self.images else ["no image was compared"]
        if worst.unmatched:
            found.append(f"{worst.unmatched} results without a counterpart")
        if worst.score is not None and not worst.score <= bounds.score:
            found.append(f"scores differ by up to {worst.score:.2g} (allowed {bounds.score:g})")
        for name, words in (("box_iou", "a box's IoU is"), ("mask_iou", "a mask's IoU is")):
            value, least = getattr(worst, name), getattr(bounds, name)
            if value is not None and not value >= least:
                found.append(f"{words} {value:.3f} (allowed {least:g} or more)")
        if worst.agreement is not None and not worst.agreement >= bounds.agreement:
            found.append(f"{worst.agreement:.2%} of an image's pixels agree (allowed {bounds.agreement:.2%} or more)")
        if not self.raw <= bounds.raw:
            found.append(f"raw values differ by up to {self.raw:.2g} of their size (allowed {bounds.raw:g})")
        return found

    @property
    def holds(self) -> bool:
        """Whether the file may be shipped."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in `parity.json`."""
        return {**asdict(self), "holds": self.holds, "failures": self.failures}

    def __str__(self) -> str:
        worst, middle = self.worst, self.median
        parts = [f"{self.images} images"]
        if worst.score is not None:
            parts.append(f"scores differ by at most {worst.score:.1e} (median {middle.score or 0:.1e})")
        if worst.box_iou is not None:
            parts.append(f"{worst.objects} objects matched, worst box IoU {worst.box_iou:.4f}")
        if worst.mask_iou is not None:
            parts.append(f"worst mask IoU {worst.mask_iou:.4f}")
        if worst.agreement is not None:
            parts.append(f"at least {worst.agreement:.2%} of pixels agree")
        return "; ".join([*parts, f"raw values within {self.raw:.1e} of their size"])


def compare(
    expected: Sequence[Record], got: Sequence[Record], raw: float, bounds: Bounds | None = None, limit: float = 0.0
) -> Parity:
    """Set the records of the same images by the model and by the file against each other.

    Classifications must hold every class; objects are those above the score `limit`. `raw` is as in `Parity`.
    """
    bounds = bounds or Bounds()
    pairs = zip(expected, got, strict=True)
    images = [alike(mine, theirs, bounds.score, limit) for mine, theirs in pairs]
    return Parity(len(images), _over(images, True), _over(images, False), raw, bounds)


def alike(mine: Any, theirs: Any, score: float = Bounds.score, limit: float = 0.0) -> Likeness:
    """Two records of one image; what lies less than `score` above a limit may be cut off in one of them."""
    if isinstance(mine, Classification):
        return _classes(mine, theirs, score)
    if isinstance(mine, SemanticMap):
        return Likeness(agreement=float((mine.labels == theirs.labels).mean()))
    if isinstance(mine, PanopticMap):
        return _segments(mine, theirs)
    return _objects(mine, theirs, score, limit)


def raw_difference(raw: dict[str, Tensor], got: dict[str, Tensor]) -> float:
    """The largest difference of two sets of raw tensors, in root mean squares of all levels' tensors of that name.

    Rows of found objects (boxes, scores, labels, masks) are left to the records: their order may differ.
    """
    groups: dict[str, list[str]] = {}
    for name in raw:
        groups.setdefault(name.rstrip("0123456789"), []).append(name)
    worst = 0.0
    for group, names in groups.items():
        if group.removeprefix("things_") in ("boxes", "scores", "labels", "masks"):
            continue
        if any(got[name].shape != raw[name].shape for name in names):
            return float("inf")
        mine, theirs = (torch.cat([side[name].double().flatten() for name in names]) for side in (raw, got))
        if not theirs.isfinite().all():
            return float("inf")
        worst = max(worst, float((mine - theirs).abs().max() / mine.square().mean().sqrt().clamp(min=1e-12)))
    return worst


def _classes(mine: Classification, theirs: Classification, score: float) -> Likeness:
    own, other = (dict(zip(record.labels, record.scores, strict=True)) for record in (mine, theirs))
    gap = max(abs(value - other[label]) for label, value in own.items())
    tie = abs(mine.score - own[theirs.label]) <= score
    return Likeness(score=gap, unmatched=int(mine.label != theirs.label and not tie))


def _objects(mine: Detections, theirs: Detections, score: float, limit: float) -> Likeness:
    """Each object's counterpart is the free one of its class that it overlaps most, the surest object first."""
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
    seen = [{i for i, _ in pairs}, {j for _, j in pairs}]
    full = max(len(mine), len(theirs)) >= FULL
    least = score + (min((*mine.scores, *theirs.scores)) if full else limit)  # below this, either may be cut off
    alone = sum(
        value > least
        for record, known in zip((mine, theirs), seen, strict=True)
        for i, value in enumerate(record.scores)
        if i not in known
    )
    found = Likeness(unmatched=alone, objects=len(pairs))
    if not pairs:
        return found
    gap = max(abs(mine.scores[i] - theirs.scores[j]) for i, j in pairs)
    found = replace(found, score=gap, box_iou=float(min(iou[pair] for pair in pairs)))
    if isinstance(mine, Instances) and isinstance(theirs, Instances):
        found = replace(found, mask_iou=min(_mask_iou(mine.masks[i], theirs.masks[j]) for i, j in pairs))
    return found


def _mask_iou(one: Any, other: Any) -> float:
    a, b = rle.decode(one), rle.decode(other)
    differing = max(int((a ^ b).sum()) - EDGE, 0)
    return 1 - differing / max(int((a | b).sum()), 1)


def _segments(mine: PanopticMap, theirs: PanopticMap) -> Likeness:
    """Pixels agree where they lie in segments that are each other's largest part and have the same class."""
    pairs, places = np.unique(np.stack([mine.ids.ravel(), theirs.ids.ravel()]), axis=1, return_inverse=True)
    counts = np.bincount(places.ravel())
    classes = [{0: -1} | {s.id: s.label for s in record.segments} for record in (mine, theirs)]
    best = [{}, {}]  # type: list[dict[int, tuple[int, int]]]
    for (a, b), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
        for side, key, other in ((0, a, b), (1, b, a)):
            best[side][key] = max(best[side].get(key, (0, 0)), (count, other))
    same = 0
    for (a, b), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
        mutual = best[0][a][1] == b and best[1][b][1] == a
        same += count if mutual and classes[0][a] == classes[1][b] else 0
    return Likeness(agreement=same / mine.ids.size, objects=len(mine.segments))


def _over(images: Sequence[Likeness], worst: bool) -> Likeness:
    """The worst of, or the middle of, several images."""

    def over(name: str, pick: Any) -> Any:
        values = [value for image in images if (value := getattr(image, name)) is not None]
        return (pick if worst else median)(values) if values else None

    counts = {name: sum(getattr(image, name) for image in images) for name in ("unmatched", "objects")}
    return Likeness(over("score", max), over("box_iou", min), over("mask_iou", min), over("agreement", min), **counts)
