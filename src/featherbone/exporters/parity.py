"""Comparison of an exported file with its model on real images, after decoding."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from featherbone.results import Record
from featherbone.tasks.likeness import SCORE, Likeness
from featherbone.tasks.task import KINDS


@dataclass(frozen=True)
class Bounds:
    """Allowed differences between a file and its model."""

    score: float = SCORE
    """Maximum difference of a score."""
    box_iou: float = 0.99
    """Minimum IoU of a box and its counterpart."""
    mask_iou: float = 0.99
    """Minimum IoU of a mask and its counterpart, as `Likeness.mask_iou`."""
    agreement: float = 0.999
    """Minimum share of an image's pixels with the same class, or in the same segment."""
    raw: float = 1e-3
    """Maximum difference of a raw value, as `RawDifference.largest`."""


FP16 = Bounds(score=0.05, box_iou=0.95, mask_iou=0.95, agreement=0.99, raw=0.1)
"""Those of a file whose weights are rounded to float16."""


@dataclass(frozen=True)
class Parity:
    """Differences between a model and its exported file over a number of images."""

    images: int
    worst: Likeness
    median: Likeness
    raw: float
    """Maximum difference of a raw value, as `RawDifference.largest`."""
    bounds: Bounds = Bounds()
    caveat: str = ""
    """As `Target.caveat`."""

    @property
    def failures(self) -> list[str]:
        """Messages about what exceeds the bounds."""
        worst, bounds = self.worst, self.bounds
        found = [] if self.images else ["no image was compared"]
        if worst.unmatched:
            found.append(f"{worst.unmatched} results without a counterpart")
        if worst.score is not None and not worst.score <= bounds.score:
            found.append(f"scores differ by up to {worst.score:.2g} (allowed {bounds.score:g})")
        for name, words in (("box_iou", "a box's IoU is"), ("mask_iou", "a mask's IoU is")):
            value, minimum = getattr(worst, name), getattr(bounds, name)
            if value is not None and not value >= minimum:
                found.append(f"{words} {value:.3f} (allowed {minimum:g} or more)")
        if worst.agreement is not None and not worst.agreement >= bounds.agreement:
            found.append(f"{worst.agreement:.2%} of an image's pixels agree (allowed {bounds.agreement:.2%} or more)")
        if not self.raw <= bounds.raw:
            found.append(f"raw values differ by up to {self.raw:.2g} of their size (allowed {bounds.raw:g})")
        return found

    @property
    def holds(self) -> bool:
        """Whether the file may be used in place of the model."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
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
        parts.append(f"raw values within {self.raw:.1e} of their size")
        return "; ".join([*parts, self.caveat] if self.caveat else parts)


def compare(
    expected: Sequence[Record], got: Sequence[Record], raw: float, bounds: Bounds | None = None, limit: float = 0.0
) -> Parity:
    """Compare the records of the same images by the model and by the file.

    Classifications must hold every class; objects are those above the score `limit`. `raw` is as in `Parity`.
    """
    bounds = bounds or Bounds()
    pairs = zip(expected, got, strict=True)
    images = [alike(mine, theirs, bounds.score, limit) for mine, theirs in pairs]
    return Parity(len(images), _over(images, True), _over(images, False), raw, bounds)


def alike(mine: Record, theirs: Record, score: float = SCORE, limit: float = 0.0) -> Likeness:
    """Two records of one image, compared as their task does it."""
    kind = next(kind for kind in KINDS.values() if kind.record is type(mine))
    return kind.same(mine, theirs, score, limit)


def _over(images: Sequence[Likeness], worst: bool) -> Likeness:
    """The worst or the median of several images."""

    def over(name: str, pick: Any) -> Any:
        values = [value for image in images if (value := getattr(image, name)) is not None]
        return float((pick if worst else np.median)(values)) if values else None

    counts = {name: sum(getattr(image, name) for image in images) for name in ("unmatched", "objects")}
    return Likeness(
        over("score", np.max), over("box_iou", np.min), over("mask_iou", np.min), over("agreement", np.min), **counts
    )
