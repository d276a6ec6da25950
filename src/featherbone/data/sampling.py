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
