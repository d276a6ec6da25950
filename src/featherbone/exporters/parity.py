"""Whether an exported file and its model say the same of real images, after decoding."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from featherbone.results import Record
from featherbone.tasks.likeness import SCORE, Likeness
from featherbone.tasks.task import KINDS


@dataclass(frozen=True)
class Bounds:
    """How far a file may be from its model."""

    score: float = SCORE
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


def alike(mine: Record, theirs: Record, score: float = SCORE, limit: float = 0.0) -> Likeness:
    """Two records of one image, compared as their task does it."""
    kind = next(kind for kind in KINDS.values() if kind.record is type(mine))
    return kind.same(mine, theirs, score, limit)


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


def _over(images: Sequence[Likeness], worst: bool) -> Likeness:
    """The worst of, or the middle of, several images."""

    def over(name: str, pick: Any) -> Any:
        values = [value for image in images if (value := getattr(image, name)) is not None]
        return (pick if worst else median)(values) if values else None

    counts = {name: sum(getattr(image, name) for image in images) for name in ("unmatched", "objects")}
    return Likeness(over("score", max), over("box_iou", min), over("mask_iou", min), over("agreement", min), **counts)
