"""How well every pixel's class is told: one confusion matrix over a whole set."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from featherbone.ops.label_maps import IGNORE

NEAR = 0.02
"""Width of the border that boundary IoU looks at, in diagonals of the image (arXiv 2103.16562)."""

Labels = NDArray[np.uint8]
Counts = NDArray[np.int64]


@dataclass
class SemanticMetrics:
    """Confusion of K classes, pixel by pixel and at borders; sums of several processes add up."""

    num_classes: int
    confusion: Counts = field(init=False)
    """True class by said class (K, K + 1); the last column is of pixels of which nothing was said."""
    border: Counts = field(init=False)
    """The same (K + 1, K + 1) of pixels near a border of their own class: the last of those that are not."""

    def __post_init__(self) -> None:
        k = self.num_classes
        self.confusion = np.zeros((k, k + 1), np.int64)
        self.border = np.zeros((k + 1, k + 1), np.int64)

    def update(self, truth: Labels, said: Labels) -> float | None:
        """Count one image from classes (H, W), 255 where none is known; its own pixel accuracy, None without truth."""
        if truth.shape != said.shape:
            raise ValueError(f"a map of {said.shape} for an image of {truth.shape}; bring it to the image's size")
        k = self.num_classes
        known = truth != IGNORE
        own = _confusion(truth[known], said[known], k)[:k]
        self.confusion += own
        edge, said_edge = (np.where(near_border(labels), labels, IGNORE)[known] for labels in (truth, said))
        self.border += _confusion(edge, said_edge, k)
        return float(np.trace(own) / own.sum()) if own.sum() else None

    def add(self, other: "SemanticMetrics") -> None:
        """Take in what another process counted."""
        self.confusion += other.confusion
        self.border += other.border

    def compute(self) -> dict[str, Any]:
        """mIoU, mean accuracy and boundary mIoU over the classes that the truth shows, pixel accuracy, and per class.

        A class's value is None where the truth does not show it.
        """
        k = self.num_classes
        true, said, right = self.confusion.sum(1), self.confusion.sum(0)[:k], self.confusion.diagonal()
        shown = true > 0
        iou = right / np.maximum(true + said - right, 1)
        accuracy = right / np.maximum(true, 1)
        edge = self.border.diagonal()[:k]
        union = self.border.sum(1)[:k] + self.border.sum(0)[:k] - edge
        boundary = edge / np.maximum(union, 1)
        return {
            "mIoU": _mean(iou[shown]),
            "pixel_accuracy": float(right.sum() / max(true.sum(), 1)),
            "mean_accuracy": _mean(accuracy[shown]),
            "boundary_mIoU": _mean(boundary[shown]),
            "per_class": [float(value) if there else None for value, there in zip(iou, shown, strict=True)],
            "boundary_per_class": [
                float(value) if there else None for value, there in zip(boundary, shown, strict=True)
            ],
            "pixels": true.tolist(),
            "confusion": self.confusion.tolist(),
        }


def near_border(labels: Labels) -> NDArray[np.bool_]:
    """Whether each pixel (H, W) lies within `NEAR` diagonals, at least one pixel, of another class or the outside.

    The distance is the chessboard's: what erosion of each class by a square takes away (arXiv 2103.16562).
    """
    height, width = labels.shape
    reach = max(round(NEAR * float(np.hypot(height, width))), 1)
    values = torch.from_numpy(labels.astype(np.float32))[None, None]
    padded = F.pad(values, (1, 1, 1, 1), value=-1)  # the outside is another class
    high, low = _largest(padded, reach), -_largest(-padded, reach)
    return (high != low)[0, 0, 1:-1, 1:-1].numpy()


def _largest(values: torch.Tensor, reach: int) -> torch.Tensor:
    """The largest value (1, 1, H, W) within `reach` pixels along both axes."""
    size = 2 * reach + 1
    across = F.max_pool2d(values, (1, size), 1, (0, reach))
    return F.max_pool2d(across, (size, 1), 1, (reach, 0))


def _confusion(truth: NDArray[Any], said: NDArray[Any], k: int) -> Counts:
    """Counts (K + 1, K + 1) of pairs; what is no class counts as the last."""
    rows, columns = np.minimum(truth, k).astype(np.int64), np.minimum(said, k).astype(np.int64)
    return np.bincount(rows * (k + 1) + columns, minlength=(k + 1) ** 2).reshape(k + 1, k + 1)


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else 0.0
