"""Expected calibration error (Guo et al. 2017, arXiv 1706.04599): how far confidence is from accuracy."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15
"""Bins of equal width from 0 to 1; a bin includes its upper end."""


def bin_confidences(confidences: Sequence[float], right: NDArray[np.bool_]) -> list[tuple[int, float, float]]:
    """Of each bin the number of images, and their mean confidence and accuracy; 0 where there are none."""
    values = np.asarray(confidences, np.float64)
    bins = np.clip(np.ceil(values * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    counts, sums, hits = (np.bincount(bins, weights, NUM_BINS) for weights in (None, values, right))
    filled = np.maximum(counts, 1)
    return list(zip(counts.tolist(), (sums / filled).tolist(), (hits / filled).tolist(), strict=True))


def calibration_error(bins: Sequence[tuple[int, float, float]]) -> float | None:
    """The mean difference of accuracy and confidence, weighted by the images of the bins; None without images."""
    total = sum(count for count, *_ in bins)
    return sum(count * abs(accuracy - sure) for count, sure, accuracy in bins) / total if total else None
