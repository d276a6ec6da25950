"""Counts of single images, from which the headline metric of any weighted set of them is computed."""

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from featherbone.errors import BadRun
from featherbone.files import write_bytes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ImageCounts(ABC):
    """Counts of N images in the order of their indices; a field is an array with a row for each image, or as stated.

    An image with the weight w counts as w copies of it, whose detections with equal scores stay together. Weights are
    (B, N), for B sets of images at once.
    """

    indices: Ints
    """Index of each image in its split (N,)."""
    scores: Floats
    """The own score of each image from 0 to 1 (N,); NaN where it has none."""

    bias_rate: ClassVar[float] = 1.0
    """The bias of the metric on N images falls as N to the minus this."""

    @property
    def qualities(self) -> Floats:
        """By which single images of two models are compared: from 0 to 1 (N,)."""
        return self.scores

    @abstractmethod
    def per_class(self, weights: Floats) -> Floats:
        """The metric of each class (B, K); NaN where a set holds nothing of it."""

    def metric(self, weights: Floats) -> Floats:
        """The headline metric (B,): by default the mean over the classes; NaN where there is none."""
        return mean_known(self.per_class(weights))

    def write(self, path: Path, fingerprint: str) -> None:
        """Write the arrays as `.npz`, with the `fingerprint` of the split."""
        content = io.BytesIO()
        np.savez_compressed(content, fingerprint=np.array(fingerprint), **vars(self))
        write_bytes(path, content.getvalue())

    @classmethod
    def read(cls, path: Path, fingerprint: str) -> Self | None:
        """The counts in a file; None where there is none, or it is of another split or task. Raises `BadRun`."""
        if not path.is_file():
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays: dict[str, NDArray[Any]] = {name: file[name] for name in file.files}
        except (ValueError, OSError, BadZipFile) as error:
            raise BadRun(
                f"{path}: damaged ({str(error)[:200]}); remove it, and the images are evaluated again"
            ) from None
        stated = str(arrays.pop("fingerprint", ""))
        return cls(**arrays) if stated == fingerprint and arrays.keys() == {f.name for f in fields(cls)} else None


def in_order(
    rows: Sequence[tuple[int, float | None, Any]], width: tuple[int, ...], dtype: Any
) -> tuple[Ints, Floats, NDArray[Any]]:
    """Indices (N,), scores (N,) and counts (N, *width) of images that were counted in any order, by their indices."""
    rows = sorted(rows, key=lambda row: row[0])
    scores = np.array([np.nan if score is None else score for _, score, _ in rows], np.float64)
    counts = np.array([count for *_, count in rows], dtype).reshape(len(rows), *width)
    return np.array([index for index, *_ in rows], np.int64), scores, counts


def mean_known(values: Floats) -> Floats:
    """Means over the last axis without NaN; NaN where there is nothing else."""
    return np.ma.masked_invalid(values).mean(-1).filled(np.nan)


def divide(part: Floats, total: Floats) -> Floats:
    """Shares; NaN where the total is 0."""
    return np.divide(part, total, out=np.full(np.broadcast_shapes(part.shape, total.shape), np.nan), where=total > 0)
