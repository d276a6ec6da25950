"""Anchors fitted to the objects of a data set: k-means of their sizes with the distance 1 - IoU (arXiv 1612.08242)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featherbone.data.object_split import ObjectSplit
from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadData, BadImage

RESTARTS, ROUNDS = 30, 100
MOST = 5_000
"""Maximum number of sizes that are clustered; of more, a random sample is used."""


def input_sizes(images: ObjectSplit, preprocessing: Preprocessing) -> NDArray[np.float64]:
    """Width and height (n, 2) of all objects except crowds, in pixels of the network's input."""
    sizes = [np.empty((0, 2))]
    for index in range(len(images)):
        try:
            objects = images.truth(index)
        except (BadData, BadImage):
            continue
        frame = preprocessing.frame(objects.height, objects.width)
        boxes = objects.boxes[~objects.crowd].astype(np.float64)
        scale = frame.inner_width / frame.width, frame.inner_height / frame.height
        sizes.append((boxes[:, 2:] - boxes[:, :2]) * scale)
    return np.concatenate(sizes)


def fit_anchors(sizes: ArrayLike, count: int = 9, seed: int = 0) -> list[tuple[float, float]]:
    """`count` anchors (width, height) for `sizes` (n, 2), by increasing area; the best of `RESTARTS` clusterings.

    With no more than `count` different sizes, these are returned, some of them repeatedly. Raises `BadData` without
    sizes, or for one that is not above 0.
    """
    sizes = np.asarray(sizes, np.float64).reshape(-1, 2)
    if not len(sizes) or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise BadData("anchors are fitted to objects of some width and height; annotate some, or write the anchors")
    generator = np.random.default_rng(seed)
    if len(sizes) > MOST:
        sizes = sizes[generator.choice(len(sizes), MOST, replace=False)]
    different = np.unique(sizes, axis=0)
    if len(different) <= count:
        best = np.resize(different, (count, 2))
    else:
        trials = [_cluster(sizes, count, generator) for _ in range(RESTARTS)]
        best = max(trials, key=lambda anchors: mean_best_iou(sizes, anchors))
    return [(w, h) for w, h in best[best.prod(1).argsort(kind="stable")].tolist()]


def mean_best_iou(sizes: ArrayLike, anchors: ArrayLike) -> float:
    """Mean over `sizes` (n, 2) of the IoU with the best anchor (m, 2), both with the same centre."""
    return float(_iou(np.asarray(sizes, np.float64), np.asarray(anchors, np.float64)).max(1).mean())


def _cluster(sizes: NDArray[np.float64], count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Anchors (count, 2) by Lloyd's algorithm, initialised as in k-means++.

    An anchor moves to the median of its sizes: a few large ones would pull the mean so far that most IoUs fall.
    """
    anchors = sizes[generator.integers(len(sizes), size=1)]
    while len(anchors) < count:
        distance = (1 - _iou(sizes, anchors).max(1)).clip(1e-12)  # nearly equal ones have none
        drawn = generator.choice(len(sizes), p=distance / distance.sum())
        anchors = np.concatenate((anchors, sizes[drawn : drawn + 1]))
    for _ in range(ROUNDS):
        nearest = _iou(sizes, anchors).argmax(1)
        own = [sizes[nearest == i] for i in range(count)]
        moved = np.stack([np.median(x, 0) if len(x) else anchor for x, anchor in zip(own, anchors, strict=True)])
        if np.array_equal(moved, anchors):
            break
        anchors = moved
    return anchors


def _iou(sizes: NDArray[np.float64], anchors: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of all pairs (n, m) with the same centre."""
    common = np.minimum(sizes[:, :1], anchors[:, 0]) * np.minimum(sizes[:, 1:], anchors[:, 1])
    return common / (sizes.prod(1, keepdims=True) + anchors.prod(1) - common)
