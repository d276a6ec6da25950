"""Panoptic quality (arXiv 1801.00868), by COCO's rules for void pixels and crowds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featherbone.data.split import PanopticSegment, PanopticTruth
from featherbone.metrics.counts import Floats, ImageCounts, in_order
from featherbone.metrics.metrics import Metrics, known
from featherbone.results import PanopticMap, Segment

OVERLAP = 0.5
"""IoU above which two segments match; above one half there is at most one match."""


@dataclass(frozen=True)
class SegmentCounts(ImageCounts):
    """Matches and mistakes of each image by class; the metric is PQ over the classes annotated or predicted."""

    segments: Floats
    """Sum of IoU, true positives, false positives, false negatives (N, 4, K)."""

    def per_class(self, weights: Floats) -> Floats:
        totals = np.einsum("bn,nck->cbk", weights, self.segments, optimize=True)
        return np.where(totals[1:].sum(0) > 0, _quality(totals)[0], np.nan)


class PanopticMetrics(Metrics[PanopticTruth, PanopticMap]):
    """Matches and mistakes of K classes, of which `things` are countable."""

    def __init__(self, num_classes: int, things: Sequence[int]) -> None:
        self.num_classes, self.things, self.images = num_classes, things, 0
        self.totals = np.zeros((4, num_classes))
        """Sum of IoU, true positives, false positives, false negatives (4, K)."""
        self.rows: list[tuple[int, float | None, Floats]] = []
        """Index and PQ of each image, and its counts."""

    def update(self, index: int, truth: PanopticTruth, record: PanopticMap) -> float | None:
        """Count one image from two maps (H, W) and their segments; pixels without a segment are void. Its own PQ.

        Two segments of one class match where their IoU, void excluded from the union, is above one half. Crowds match
        nothing; a predicted segment of which more than half is void or crowd of its class is not a false positive.
        """
        if truth.ids.shape != record.ids.shape:
            raise ValueError(
                f"a map of {record.ids.shape} for an image of {truth.ids.shape}; bring it to the image's size"
            )
        own = np.zeros_like(self.totals)
        n, m = len(truth.segments), len(record.segments)
        # areas of all pairs (1 + n, 1 + m), the first of either void
        shared = _areas(truth.ids.reshape(-1), _places(record), n, m)
        true_area, found_area = shared.sum(1)[1:], shared.sum(0)[1:]
        inside, void = shared[1:, 1:], shared[0, 1:]
        labels, found_labels = _labels(truth.segments), _labels(record.segments)
        crowd = np.array([segment.crowd for segment in truth.segments], bool)
        union = true_area[:, None] + found_area - inside - void
        same = labels[:, None] == found_labels
        iou = np.where(same & ~crowd[:, None], inside / np.maximum(union, 1), 0)
        rows, columns = np.nonzero(iou > OVERLAP)
        np.add.at(own[0], labels[rows], iou[rows, columns])
        np.add.at(own[1], labels[rows], 1)
        missed = ~crowd & (true_area > 0)
        missed[rows] = False
        np.add.at(own[3], labels[missed], 1)
        spared = void + (inside * (same & crowd[:, None])).sum(0)
        false = (found_area > 0) & ~(spared > OVERLAP * found_area)
        false[columns] = False
        np.add.at(own[2], found_labels[false], 1)
        self.totals += own
        self.images += 1
        qualities, shown = _quality(own)[0], own[1:].sum(0) > 0
        quality = float(qualities[shown].mean()) if shown.any() else None
        self.rows.append((index, quality, own))
        return quality

    def merge(self, other: Self) -> None:
        self.rows += other.rows
        self.totals += other.totals
        self.images += other.images

    def compute(self) -> dict[str, Any]:
        """PQ, SQ and RQ over the classes annotated or predicted: of all, `_things` and `_stuff`, and per class.

        None where there is no such class.
        """
        seen = self.totals[1:].sum(0) > 0
        thing = np.isin(np.arange(self.num_classes), list(self.things))
        groups = {"": seen, "_things": seen & thing, "_stuff": seen & ~thing}
        names, values = ("PQ", "SQ", "RQ"), _quality(self.totals)
        means = {
            f"{name}{group}": float(of[chosen].mean()) if chosen.any() else None
            for group, chosen in groups.items()
            for name, of in zip(names, values, strict=True)
        }
        rows = {
            kind: known(of, seen)
            for kind, of in zip(("per_class", "SQ_per_class", "RQ_per_class"), values, strict=True)
        }
        segments = (self.totals[1] + self.totals[3]).astype(int).tolist()
        return {**means, **rows, "images": self.images, "segments": segments}

    def counts(self) -> SegmentCounts:
        return SegmentCounts(*in_order(self.rows, self.totals.shape, np.float64))


def _quality(counts: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """PQ, SQ and RQ of each class (K,): PQ = SQ RQ, SQ = sum IoU / TP, RQ = TP / (TP + FP / 2 + FN / 2)."""
    total, tp, fp, fn = counts
    sq = total / np.maximum(tp, 1)
    rq = tp / np.maximum(tp + (fp + fn) / 2, 0.5)
    return sq * rq, sq, rq


def _places(record: PanopticMap) -> NDArray[np.int64]:
    """The place of each pixel's segment in `record.segments`, from 1; 0 for void."""
    known, inverse = np.unique(record.ids, return_inverse=True)
    numbers = {segment.id: number for number, segment in enumerate(record.segments, 1)}
    return np.array([numbers.get(value, 0) for value in known.tolist()], np.int64)[inverse.reshape(-1)]


def _areas(truth: NDArray[Any], found: NDArray[np.int64], n: int, m: int) -> NDArray[np.int64]:
    return np.bincount(truth.astype(np.int64) * (m + 1) + found, minlength=(n + 1) * (m + 1)).reshape(n + 1, m + 1)


def _labels(segments: Sequence[PanopticSegment | Segment]) -> NDArray[np.int64]:
    return np.array([segment.label for segment in segments], np.int64)
