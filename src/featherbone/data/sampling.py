"""Choosing a few of many images, and their order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOW = 2048
"""Images that are shuffled together where images are read by blocks."""


def spread(count: int, most: int) -> list[int]:
    """`most` distinct indices spread evenly over range(count), including first and last; all of fewer.

    A single index is the middle one.
    """
    if count <= most:
        return list(range(count))
    return [i * (count - 1) // (most - 1) for i in range(most)] if most > 1 else [count // 2] * most


def spread_classes(labels: Sequence[int] | np.ndarray[Any, Any], most: int) -> list[int]:
    """As `spread`, with the same number of indices per class as far as possible; `labels` are class indices (N,).

    With fewer indices than classes, the classes are spread as well.
    """
    members = [np.flatnonzero(np.asarray(labels) == label) for label in np.unique(labels)]
    members = [members[i] for i in spread(len(members), most)]
    owners = np.repeat(np.arange(len(members)), [len(own) for own in members])
    ranks = np.concatenate([np.arange(len(own)) for own in members]) if members else owners
    shares = np.bincount(owners[np.lexsort((owners, ranks))[:most]], minlength=len(members)).tolist()
    return sorted(int(own[i]) for own, share in zip(members, shares, strict=True) for i in spread(len(own), share))


def repeat_factors(
    images: NDArray[np.int64], labels: NDArray[np.int64], count: int, threshold: float
) -> NDArray[np.float64]:
    """How often an epoch contains each of `count` images on average (count,), at least once; Gupta et al., 1908.03195.

    f(c) is the share of images that show class c, r(c) = max(1, sqrt(threshold / f(c))), and the factor of an image is
    the largest r(c) of its classes. `images` and `labels` (P,) are pairs of an image and a class that it shows.
    """
    num_classes = int(labels.max(initial=0)) + 1
    images, labels = np.divmod(np.unique(images * num_classes + labels), num_classes)
    frequency = np.bincount(labels) / count
    factors = np.ones(count)
    np.maximum.at(factors, images, np.sqrt(threshold / frequency[labels]))
    return factors


def repeat_images(factors: NDArray[np.float64], seed: int, epoch: int) -> NDArray[np.int64]:
    """The indices of an epoch by (seed, epoch): index i occurs `factors[i]` times, rounded up or down at random.

    The mean over epochs is the factor, and every epoch has at least int(factors.sum()) indices: they are drawn by
    systematic sampling.
    """
    [generator] = np.random.default_rng((seed, epoch)).spawn(1)  # the order is drawn from the parent
    places = generator.permutation(len(factors))
    whole = np.floor(factors)
    ends = np.floor((factors - whole)[places].cumsum() + generator.random())
    copies = whole.astype(np.int64)
    copies[places] += np.diff(ends, prepend=0).astype(np.int64)
    return np.repeat(np.arange(len(factors)), copies)


def count_earlier(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each value occurs before its place (N,)."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    earlier = np.empty_like(order)
    earlier[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return earlier


def shuffle_blocks(blocks: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Indices of images (N,) shuffled by (seed, epoch), those of one block close together; `blocks` (N,) are theirs.

    The blocks are shuffled and cut into windows of up to `WINDOW` images, at least one block, and then the images of
    each window are. Up to `WINDOW` images are permuted as if there were no blocks.
    """
    generator = np.random.default_rng((seed, epoch))
    if len(blocks) <= WINDOW:
        return generator.permutation(len(blocks))
    members = np.argsort(blocks, kind="stable")
    parts = np.split(members, np.flatnonzero(np.diff(blocks[members])) + 1)
    windows: list[list[NDArray[np.int64]]] = []
    size = 0
    for number in generator.permutation(len(parts)).tolist():
        size += len(parts[number])
        if not windows or size > WINDOW:
            windows.append([])
            size = len(parts[number])
        windows[-1].append(parts[number])
    return np.concatenate([generator.permutation(np.concatenate(window)) for window in windows])
