"""How often the right class is first, or among the first five."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class ClassificationMetrics:
    """Counts over a whole set, on the CPU; those of several processes may be added up before `compute`."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts: dict[str, Tensor] = {
            "confusion": torch.zeros(num_classes, num_classes, dtype=torch.int64),
            "top5": torch.zeros((), dtype=torch.int64),
            "loss": torch.zeros((), dtype=torch.float64),
        }
        """Confusion matrix (true class, predicted class); images with the true class in the first five; summed loss."""

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch of logits (B, K) and true classes (B,), from any device."""
        logits, labels = logits.float().cpu(), labels.cpu()
        cells = labels * self.num_classes + logits.argmax(1)
        square = (self.num_classes, self.num_classes)
        self.counts["confusion"] += torch.bincount(cells, minlength=self.num_classes**2).reshape(square)
        first = logits.topk(min(5, self.num_classes), dim=1).indices
        self.counts["top5"] += (first == labels[:, None]).sum()
        self.counts["loss"] += F.cross_entropy(logits, labels, reduction="sum").double()

    def compute(self) -> dict[str, Any]:
        """`top1`, `top5`, `mean_per_class` (0 to 1), `loss`, `per_class` (None where no image), `confusion`."""
        confusion = self.counts["confusion"]
        total = max(int(confusion.sum()), 1)
        per_class = [int(row[i]) / int(row.sum()) if int(row.sum()) else None for i, row in enumerate(confusion.cpu())]
        known = [share for share in per_class if share is not None]
        return {
            "top1": int(confusion.trace()) / total,
            "top5": int(self.counts["top5"]) / total,
            "mean_per_class": sum(known) / max(len(known), 1),
            "loss": float(self.counts["loss"]) / total,
            "images": int(confusion.sum()),
            "per_class": per_class,
            "confusion": confusion.tolist(),
        }
