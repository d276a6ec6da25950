"""How often the true class is the most probable, or among the five most probable."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featherbone.metrics.calibration import bin_confidences, calibration_error
from featherbone.metrics.counts import Floats, ImageCounts, Ints, divide, in_order
from featherbone.metrics.metrics import Metrics
from featherbone.metrics.operating_point import Answers
from featherbone.results import Classification


@dataclass(frozen=True)
class ClassCounts(ImageCounts):
    """True and predicted class of each image; the metric is the share of images in which they are the same."""

    labels: Ints
    """True and predicted class (N, 2)."""
    num_classes: Ints
    """A single number."""

    def per_class(self, weights: Floats) -> Floats:
        return divide(self._count(weights * self.correct), self._count(weights))

    def _count(self, weights: Floats) -> Floats:
        """Sums of weights by true class (B, K)."""
        return np.array([np.bincount(self.labels[:, 0], row, int(self.num_classes)) for row in weights], np.float64)

    def metric(self, weights: Floats) -> Floats:
        return divide(weights @ self.correct, weights.sum(1))

    @property
    def qualities(self) -> Floats:
        return self.correct.astype(np.float64)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each image's class is predicted (N,)."""
        return self.labels[:, 0] == self.labels[:, 1]


class ClassificationMetrics(Metrics[int, Classification]):
    """Counts over a set of images."""

    def __init__(self, num_classes: int) -> None:
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        """Images by true class (row) and predicted class (column)."""
        self.in_top5 = 0
        self.rows: list[tuple[int, float, tuple[int, int]]] = []
        """Index and score of each image, and its true and predicted class."""
        self.confidences: list[float] = []
        """Score of the predicted class of each image, in the order of `rows`."""

    def update(self, index: int, truth: int, record: Classification) -> float:
        """1 for a correct image; for a wrong one, the less the higher the score of its class."""
        self.confusion[truth, record.label] += 1
        self.in_top5 += truth in record.labels[:5]
        score = 1.0 if record.label == truth else 1.0 - record.score
        self.rows.append((index, score, (truth, record.label)))
        self.confidences.append(record.score)
        return score

    def merge(self, other: Self) -> None:
        self.confusion += other.confusion
        self.in_top5 += other.in_top5
        self.rows += other.rows
        self.confidences += other.confidences

    def compute(self) -> dict[str, Any]:
        """`top1`, `top5`, `mean_per_class`, `ece` (0 to 1), `images`, `per_class` (None without images), `confusion`.

        `reliability` are the rows of `bin_confidences`, from which the calibration error `ece` is computed.
        """
        counts, correct = self.confusion.sum(1).tolist(), self.confusion.diagonal().tolist()
        total = max(sum(counts), 1)
        per_class = [hits / count if count else None for hits, count in zip(correct, counts, strict=True)]
        bins = bin_confidences(self.confidences, self.answers().right)
        known = [share for share in per_class if share is not None]
        return {
            "top1": sum(correct) / total,
            "top5": self.in_top5 / total,
            "mean_per_class": sum(known) / max(len(known), 1),
            "ece": calibration_error(bins),
            "images": sum(counts),
            "per_class": per_class,
            "confusion": self.confusion.tolist(),
            "reliability": bins,
        }

    def answers(self) -> Answers:
        right = np.array([truth == label for *_, (truth, label) in self.rows], bool)
        return Answers(np.array(self.confidences, np.float64), right, len(right))

    def counts(self) -> ClassCounts:
        indices, scores, labels = in_order(self.rows, (2,), np.int64)
        return ClassCounts(indices, scores, labels, np.array(len(self.confusion)))
