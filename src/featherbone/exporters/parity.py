"""Whether two forms of a model say the same of real images, after decoding."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from torch import Tensor

from featherbone.results import Classification

SCORE_BOUND = 1e-3
"""Largest difference of a class's score."""
RAW_BOUND = 1e-3
"""Largest difference of a raw value, relative to the deviation of the raw values."""


@dataclass(frozen=True)
class Parity:
    """Differences between a model and its exported file over a number of images."""

    images: int
    same_class: int
    """Images on which the best class agrees, or differs only between scores within the bound of each other."""
    worst_score: float
    median_score: float
    worst_raw: float
    """Relative to the deviation of the raw values."""
    score_bound: float = SCORE_BOUND
    raw_bound: float = RAW_BOUND

    @property
    def holds(self) -> bool:
        """Whether the file may be shipped."""
        within = self.worst_score <= self.score_bound and self.worst_raw <= self.raw_bound
        return self.images > 0 and self.same_class == self.images and within

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in `parity.json`."""
        return {**asdict(self), "holds": self.holds}


def compare(expected: Sequence[Classification], got: Sequence[Classification], raw: Tensor, got_raw: Tensor) -> Parity:
    """Set decoded results and raw logits (N, K) of the model and of the file against each other.

    The records must hold every class, so that each class's score can be compared.
    """
    differences = []
    same = 0
    for mine, other in zip(expected, got, strict=True):
        theirs = dict(zip(other.labels, other.scores, strict=True))
        gap = max(abs(score - theirs[label]) for label, score in zip(mine.labels, mine.scores, strict=True))
        differences.append(gap)
        tie = abs(mine.score - dict(zip(mine.labels, mine.scores, strict=True))[other.label]) <= SCORE_BOUND
        same += mine.label == other.label or tie
    worst_raw = ((raw - got_raw).abs().max() / raw.std().clamp(min=1e-12)).item()
    return Parity(len(expected), same, max(differences), median(differences), worst_raw)
