"""Metrics of classes of pixels: one confusion matrix over a set of images."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from featherbone.metrics.counts import Floats, ImageCounts, divide, in_order
from featherbone.metrics.metrics import Metrics, known
from featherbone.ops.label_maps import IGNORE
from featherbone.results import SemanticMap

NEAR = 0.02
"""Width of the border in boundary IoU, in diagonals of the image (arXiv 2103.16562)."""

Labels = NDArray[np.uint8]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class PixelCounts(ImageCounts):
    """Pixels of each image by class; the metric is mIoU over the annotated classes."""

    pixels: Counts
    """Correct, true and predicted pixels of each class (N, 3, K)."""

    def per_class(self, weights: Floats) -> Floats:
        correct, true, predicted = np.einsum("bn,nck->cbk", weights, self.pixels.astype(np.float64), optimize=True)
        return np.where(true > 0, divide(correct, true + predicted - correct), np.nan)


class SemanticMetrics(Metrics[Labels, SemanticMap]):
    """Confusion of K classes, of all pixels and of those near borders."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes, self.images = num_classes, 0
        self.confusion = np.zeros((num_classes, num_classes + 1), np.int64)
        """Pixels by true and predicted class (K, K + 1); the last column counts pixels without a prediction."""
        self.border = np.zeros((num_classes + 1, num_classes + 1), np.int64)
        """The same (K + 1, K + 1) of pixels near a border of their class; the last row and column count all others."""
        self.rows: list[tuple[int, float | None, Counts]] = []
        """Index and accuracy of each image, and its correct, true and predicted pixels of each class (3, K)."""

    def update(self, index: int, truth: Labels, record: SemanticMap) -> float | None:
        """Count one image from classes (H, W), 255 where unlabelled; its pixel accuracy, None without labels."""
        predicted = record.labels
        if truth.shape != predicted.shape:
            raise ValueError(f"a map of {predicted.shape} for an image of {truth.shape}; bring it to the image's size")
        k = self.num_classes
        labelled = truth != IGNORE
        own = _confusion(truth[labelled], predicted[labelled], k)[:k]
        self.confusion += own
        self.images += 1
        true_edge, edge = (np.where(near_border(labels), labels, IGNORE)[labelled] for labels in (truth, predicted))
        self.border += _confusion(true_edge, edge, k)
        accuracy = float(np.trace(own) / own.sum()) if own.sum() else None
        pixels = np.stack((own.diagonal(), own.sum(1), own.sum(0)[:k]))
        self.rows.append((index, accuracy, pixels))
        return accuracy

    def merge(self, other: Self) -> None:
        self.confusion += other.confusion
        self.border += other.border
        self.images += other.images
        self.rows += other.rows

    def compute(self) -> dict[str, Any]:
        """mIoU, mean accuracy and boundary mIoU over the annotated classes, pixel accuracy, and per class.

        A class's value is None where it is not annotated.
        """
        k = self.num_classes
        true, predicted = self.confusion.sum(1), self.confusion.sum(0)[:k]
        correct = self.confusion.diagonal()
        shown = true > 0
        iou = correct / np.maximum(true + predicted - correct, 1)
        accuracy = correct / np.maximum(true, 1)
        edge = self.border.diagonal()[:k]
        union = self.border.sum(1)[:k] + self.border.sum(0)[:k] - edge
        boundary = edge / np.maximum(union, 1)
        return {
            "mIoU": _mean(iou[shown]),
            "pixel_accuracy": float(correct.sum() / max(true.sum(), 1)),
            "mean_accuracy": _mean(accuracy[shown]),
            "boundary_mIoU": _mean(boundary[shown]),
            "per_class": known(iou, shown),
            "boundary_per_class": known(boundary, shown),
            "images": self.images,
            "pixels": true.tolist(),
            "confusion": self.confusion.tolist(),
        }

    def counts(self) -> PixelCounts:
        return PixelCounts(*in_order(self.rows, (3, self.num_classes), np.int64))


def near_border(labels: Labels) -> NDArray[np.bool_]:
    """Whether each pixel (H, W) is within `NEAR` diagonals, at least one pixel, of another class or the outside.

    The distance is Chebyshev's: these are the pixels that erosion of a class by a square removes.
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


def _confusion(truth: NDArray[Any], predicted: NDArray[Any], k: int) -> Counts:
    """Counts (K + 1, K + 1) of pairs; values that are not a class count as the last."""
    rows, columns = np.minimum(truth, k).astype(np.int64), np.minimum(predicted, k).astype(np.int64)
    return np.bincount(rows * (k + 1) + columns, minlength=(k + 1) ** 2).reshape(k + 1, k + 1)


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else 0.0
