"""Choosing a few of many images."""

from collections.abc import Sequence
from typing import Any

import numpy as np


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
