"""How often the true class is the most probable, or among the five most probable."""

from typing import Any, Self

import numpy as np

from featherbone.metrics.metrics import Metrics
from featherbone.results import Classification


class ClassificationMetrics(Metrics[int, Classification]):
    """Counts over a set of images."""

    def __init__(self, num_classes: int) -> None:
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        """Images by true class (row) and predicted class (column)."""
        self.in_top5 = 0

    def update(self, index: int, truth: int, record: Classification) -> float:
        """1 for a correct image; for a wrong one, the less the higher the score of its class."""
        self.confusion[truth, record.label] += 1
        self.in_top5 += truth in record.labels[:5]
        return 1.0 if record.label == truth else 1.0 - record.score

    def merge(self, other: Self) -> None:
        self.confusion += other.confusion
        self.in_top5 += other.in_top5

    def compute(self) -> dict[str, Any]:
        """`top1`, `top5`, `mean_per_class` (0 to 1), `images`, `per_class` (None without images), `confusion`."""
        counts, correct = self.confusion.sum(1).tolist(), self.confusion.diagonal().tolist()
        total = max(sum(counts), 1)
        per_class = [hits / count if count else None for hits, count in zip(correct, counts, strict=True)]
        known = [share for share in per_class if share is not None]
        return {
            "top1": sum(correct) / total,
            "top5": self.in_top5 / total,
            "mean_per_class": sum(known) / max(len(known), 1),
            "images": sum(counts),
            "per_class": per_class,
            "confusion": self.confusion.tolist(),
        }
