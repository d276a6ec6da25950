"""Average precision of each class over images with any number of classes, and F1 at a threshold.

Average precision is the sum over thresholds of precision times the increase of recall, not interpolated; images with
equal scores are counted together.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featherbone.metrics.counts import Floats, ImageCounts, divide, in_order, mean_known
from featherbone.metrics.metrics import Metrics, known
from featherbone.results import LabelSet

THRESHOLD = 0.5
"""Score above which an image has a class."""


@dataclass(frozen=True)
class LabelCounts(ImageCounts):
    """True classes and scores of each image; the metric is the mean of the average precision of the classes."""

    truths: NDArray[np.bool_]
    """(N, K)"""
    confidences: NDArray[np.float64]
    """Scores of all classes (N, K)."""

    def per_class(self, weights: Floats) -> Floats:
        """Average precision (B, K); NaN for classes without an image."""
        pairs = zip(self.truths.T, self.confidences.T, strict=True)
        columns = [average_precision(truth, scores, weights) for truth, scores in pairs]
        return np.stack(columns, 1) if columns else np.empty((len(weights), 0))


def average_precision(truth: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Average precision (B,) of one class, whose images are those where `truth` (N,); `weights` are (B, N)."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)[: len(order)]  # of equal scores
    ordered = weights[:, order]
    hits, seen = (np.cumsum(part, 1)[:, ends] for part in (ordered * truth[order], ordered))
    gained = np.diff(hits, axis=1, prepend=0)
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    return divide((gained * precision).sum(1), gained.sum(1))


class LabelMetrics(Metrics[NDArray[np.bool_], LabelSet]):
    """True classes and scores of a set of images."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.rows: list[tuple[int, float, NDArray[np.float64]]] = []
        """Index and score of each image, and its truths and scores (2, K)."""

    def update(self, index: int, truth: NDArray[np.bool_], record: LabelSet) -> float:
        """Intersection over union of true and found classes; 1 where there are none."""
        confidences = np.zeros(self.num_classes)
        confidences[list(record.labels)] = record.scores
        found = confidences > THRESHOLD
        union = int((truth | found).sum())
        score = int((truth & found).sum()) / union if union else 1.0
        self.rows.append((index, score, np.stack([truth, confidences])))
        return score

    def merge(self, other: Self) -> None:
        self.rows += other.rows

    def compute(self) -> dict[str, Any]:
        """`mAP`, `micro_F1`, `macro_F1` (0 to 1), `images`, and of each class `per_class` (AP), `F1` and `positives`.

        AP is None for a class without an image, F1 for one that is also never found; means are over the others.
        """
        counts = self.counts()
        found = counts.confidences > THRESHOLD
        hits, sums = (counts.truths & found).sum(0), counts.truths.sum(0) + found.sum(0)
        precisions = counts.per_class(np.ones((1, len(self.rows))))[0]
        scores = divide(2.0 * hits, sums.astype(np.float64))
        mean_precision, mean_score = mean_known(np.stack([precisions, scores])).tolist()
        return {
            "mAP": None if np.isnan(mean_precision) else mean_precision,
            "micro_F1": 2 * int(hits.sum()) / max(int(sums.sum()), 1),
            "macro_F1": None if np.isnan(mean_score) else mean_score,
            "images": len(self.rows),
            "per_class": known(precisions, ~np.isnan(precisions)),
            "F1": known(scores, ~np.isnan(scores)),
            "positives": counts.truths.sum(0).tolist(),
        }

    def counts(self) -> LabelCounts:
        indices, scores, values = in_order(self.rows, (2, self.num_classes), np.float64)
        return LabelCounts(indices, scores, values[:, 0] > 0, values[:, 1])
