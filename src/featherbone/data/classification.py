"""Images of one class each, and the checks on the sizes of the classes."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featherbone.data.findings import Example, Finding, check_balance, finding, listed, many
from featherbone.data.split import Split
from featherbone.errors import BadData, did_you_mean
from featherbone.text import to_bytes

IMBALANCE = 10
"""A largest class more than so many times the smallest is a warning."""


class LabelSplit(Split[int]):
    """Images of one split, each of one class."""

    labels: NDArray[np.int64]
    """Class index of each image (N,); outside of 0 to K - 1 where a file holds such a number."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def name(self, index: int) -> str: ...

    def truth(self, index: int) -> int:
        return int(self.labels[index])

    def groups(self) -> Sequence[NDArray[np.int64]]:
        return [np.flatnonzero(self.labels == label) for label in range(len(self.classes))]

    def fingerprint(self) -> str:
        rows = (f"{self.name(i)}\0{self.classes[self.labels[i]]}\n" for i in range(len(self)))
        return sha256(to_bytes("".join(rows))).hexdigest()[:16]

    def named(self, classes: tuple[str, ...], category_ids: Sequence[int] = ()) -> Self:
        if unknown := [name for name in self.classes if name not in classes]:
            hint = did_you_mean(unknown[0], classes)
            raise BadData(
                f"class {unknown[0]!r} is none of the run's classes {listed(classes)}{hint}; pass data with the run's "
                "classes"
            )
        known = (self.labels >= 0) & (self.labels < len(self.classes))
        table = np.array([classes.index(name) for name in self.classes], np.int64)
        labels = np.where(known, table[self.labels * known] if len(table) else 0, len(classes))
        return replace(self, labels=labels, classes=classes)  # type: ignore[type-var]  # every kind is a dataclass

    def matched(self, train: Split[Any]) -> tuple[Split[Any], Self, list[Finding]]:
        classes = tuple(dict.fromkeys((*train.classes, *self.classes)))
        assert isinstance(train, LabelSplit), "both splits are read by one format"
        return train.named(classes), self.named(classes), []


def count_images(images: LabelSplit) -> NDArray[np.int64]:
    """Images of each class (K,), those with a label outside the classes not counted."""
    labels = images.labels[(images.labels >= 0) & (images.labels < len(images.classes))]
    return np.bincount(labels, minlength=len(images.classes))


def check_class_counts(classes: Sequence[str], train: NDArray[np.int64], val: NDArray[np.int64]) -> Iterator[Finding]:
    """Findings about classes by the numbers (K,) of their images in both splits."""
    if train.any() and np.count_nonzero(train) < 2:
        message = (
            f"training images of one class only, {classes[int(train.argmax())]}; two or more are needed, a folder each"
        )
        yield Finding("error", "one-class", message, 1)
    if empty := [Example((classes[i],)) for i in np.flatnonzero((train == 0) & (val == 0)).tolist()]:
        message = f"{many(empty, 'class', 'classes')} without an image that can be read; add some or remove the class"
        yield finding("error", "empty-class", message, empty)
    yield from check_balance(classes, train, val, "image", IMBALANCE, only_in_val="error")
