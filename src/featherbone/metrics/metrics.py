"""The protocol of metrics: count each image, join the counts of all processes, compute."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from featherbone.metrics.counts import ImageCounts
from featherbone.metrics.operating_point import Answers

T = TypeVar("T")
R = TypeVar("R")


class Metrics(ABC, Generic[T, R]):
    """Metrics over a set of images; `T` is the annotation of an image (`Split.truth`), `R` its record."""

    @abstractmethod
    def update(self, index: int, truth: T, record: R) -> float | None:
        """Count the image of that index in its split.

        The image's own score, from 0 to 1, by which the worst images are found; None where it has none.
        """

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Add what another process has counted."""

    @abstractmethod
    def compute(self) -> dict[str, Any]:
        """The metrics by name, and lists with one value per class; None where nothing could be measured."""

    def counts(self) -> ImageCounts | None:
        """Counts of single images, from which the headline metric has an interval; None for metrics without one."""
        return None

    def answers(self) -> Answers | None:
        """Scores of the predictions and which are right, for a threshold of the score; None for tasks without one."""
        return None

    def image_scores(self) -> dict[int, float]:
        """Scores of images by index, where they are known only when all images have been counted."""
        return {}

    def synchronise(self, gather: Callable[[list[Any]], list[Any]]) -> None:
        """Join the counts of all processes, in the order of their ranks; `gather` is accelerate's `gather_object`."""
        first, *others = gather([self])
        for other in others:
            first.merge(other)
        vars(self).update(vars(first))


def known(values: NDArray[np.float64], shown: NDArray[np.bool_]) -> list[float | None]:
    """Values of classes as a list; None for those that are not `shown`."""
    return [float(value) if there else None for value, there in zip(values, shown, strict=True)]
