"""What an evaluation keeps of single images, for reports and pictures."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from featherbone.data.sampling import spread
from featherbone.metrics.intervals import interval_of
from featherbone.metrics.metrics import Metrics
from featherbone.metrics.operating_point import OperatingPoint, choose_point

SHOWN = 12
"""Images spread over the split that are shown."""
WORST = 16
"""Images with the lowest scores that are shown."""


@dataclass
class Outcome:
    """The records of a split that a report shows: all of them, or, of maps, those of a few images."""

    count: int
    """Images of the split."""
    metrics: Metrics[Any, Any]
    headline: str
    """Name of the headline metric."""
    extra: tuple[Metrics[Any, Any], ...] = ()
    """Registered metrics, computed beside those of the task."""
    is_map: bool = False
    records: dict[int, Any] = field(default_factory=dict)
    """By index."""
    scores: dict[int, float] = field(default_factory=dict)
    """The own score of each image that has one, from 0 to 1."""
    score: float = 0.0
    """Score above which objects are shown."""

    @property
    def spread(self) -> list[int]:
        """Indices of measured images, spread over the split."""
        return [index for index in spread(self.count, SHOWN) if index in self.records]

    @property
    def worst(self) -> list[int]:
        """Indices of the images with the lowest scores below 1, the lowest first."""
        below = [index for index, score in self.scores.items() if score < 1]
        return sorted(below, key=lambda index: (self.scores[index], index))[:WORST]

    def add(self, index: int, truth: Any, record: Any) -> None:
        """Count an image and keep its record if it is shown."""
        score = self.metrics.update(index, truth, record)
        for metrics in self.extra:
            metrics.update(index, truth, record)
        if score is not None:
            self.scores[index] = score
        self.records[index] = record
        if self.is_map and len(self.records) > SHOWN + 4 * WORST:
            self.trim()

    def trim(self) -> None:
        """Keep only the records that are shown."""
        if self.is_map:
            shown = {*self.spread, *self.worst}
            self.records = {index: record for index, record in self.records.items() if index in shown}

    def finish(self) -> None:
        """Take the scores of images that are known only when all have been counted."""
        self.scores |= self.metrics.image_scores()
        self.trim()

    def synchronise(self, gather: Callable[[list[Any]], list[Any]]) -> None:
        """Join the counts and records of all processes."""
        self.trim()
        for metrics in (self.metrics, *self.extra):
            metrics.synchronise(gather)
        parts = gather([(self.records, self.scores)])
        self.records = dict(sorted(pair for records, _ in parts for pair in records.items()))
        self.scores = dict(sorted(pair for _, scores in parts for pair in scores.items()))
        self.trim()

    def interval(self) -> dict[str, dict[str, tuple[float, float]]]:
        """`interval`: the 95% interval over images of the headline metric, by its name; nothing where there is none."""
        counts = self.metrics.counts()
        found = interval_of(counts) if counts is not None else None
        return {} if found is None else {"interval": {self.headline: found}}

    def choose_point(self, target: str) -> OperatingPoint:
        """The threshold of the score for a target. Raises `BadOption` where it cannot be reached."""
        answers = self.metrics.answers()
        assert answers is not None, "the task has a threshold"
        return choose_point(answers, target, self.metrics.compute()["images"])

    def compute(self) -> dict[str, Any]:
        """All metrics by name."""
        return {name: value for metrics in (*self.extra, self.metrics) for name, value in metrics.compute().items()}
