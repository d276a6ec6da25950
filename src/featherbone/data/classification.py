"""Images of one class each."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featherbone.data.findings import Finding, listed
from featherbone.data.split import Split
from featherbone.errors import BadData, did_you_mean
from featherbone.text import to_bytes


class LabelSplit(Split[int]):
    """Images of one split, each of one class."""

    labels: NDArray[np.int64]
    """Class index of each image (N,); outside of 0 to K - 1 where a file holds such a number."""

    def __len__(self) -> int:
        return len(self.labels)

    def truth(self, index: int) -> int:
        return int(self.labels[index])

    def groups(self) -> Sequence[NDArray[np.int64]]:
        return [np.flatnonzero(self.labels == label) for label in range(len(self.classes))]

    def fingerprint(self) -> str:
        return sha256(self._rows()).hexdigest()[:16]

    def joint_fingerprint(self, val: Split[Any]) -> str:
        assert isinstance(val, LabelSplit), "both splits are read by one format"
        parts = [f"{len(split)} images\n".encode() + split._rows() for split in (self, val)]
        return sha256(b"".join(parts)).hexdigest()[:16]

    def _rows(self) -> bytes:
        """Name and class of every image."""
        return to_bytes("".join(f"{self.name(i)}\0{self.classes[self.labels[i]]}\n" for i in range(len(self))))

    def named(self, classes: tuple[str, ...], category_ids: Sequence[int] = ()) -> Self:
        if classes == self.classes:
            return self
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
