"""Counts of single images of everything that is compared, on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherbone.comparison.subjects import is_results
from featherbone.comparison.trials import REPORT
from featherbone.engine.accelerator import accelerate
from featherbone.engine.results import measure_results
from featherbone.engine.train import open_measuring
from featherbone.errors import BadData, BadOption
from featherbone.exporters.exported import open_task
from featherbone.metrics.counts import ImageCounts
from featherbone.tasks.card import CARD, Card
from featherbone.tasks.kind import Kind


@dataclass(frozen=True)
class Evaluation:
    """One seed of a model on the compared images."""

    source: str
    counts: ImageCounts
    images: Any
    """The split."""
    split: str
    kind: Kind
    card: Card | None
    """None for results of another tool."""

    @property
    def seed(self) -> int | None:
        """The seed of its training, where it is known."""
        return None if self.card is None else self.card.settings.get("seed")


@dataclass(frozen=True)
class Evaluator:
    """How models are evaluated."""

    data: Path
    task: str
    split: str | None
    device: str
    workers: int | None
    trust: bool
    accept_licence: str | None

    def measure(self, source: str) -> Evaluation:
        """Evaluate a run, an exported file, a published model or results; a run that was evaluated on these images is
        not evaluated again.

        Raises `BadOption` for another task.
        """
        if is_results(source):
            masks = self.task == "instance"
            outcome, opened, kind = measure_results(Path(source), self.data, masks, self.split)
            self._require(source, kind.name)
            return Evaluation(source, _counts(outcome), opened.images, opened.split, kind, None)
        path, task = Path(source), None
        if (path / CARD).is_file():
            card = Card.read(path)
        else:
            card, task = open_task(path, self.trust, self.accept_licence)
        self._require(source, card.task)
        job = open_measuring(card, self.data, self.device, self.workers, self.split)
        empty = job.kind.metrics(job.val).counts()
        kept = empty and empty.read(path / REPORT, job.val.fingerprint())
        if kept is None:
            task = open_task(path, self.trust, self.accept_licence)[1] if task is None else task
            with accelerate(job.settings) as accelerator:
                kept = _counts(job.measure(task, card, accelerator)[1])
        return Evaluation(source, kept, job.val, job.split, job.kind, card)

    def _require(self, source: str, task: str) -> None:
        if task != self.task:
            raise BadOption(f"{source} is for {task}, and the comparison for {self.task}; compare models for one task")


def _counts(outcome: Any) -> ImageCounts:
    counts: ImageCounts | None = outcome.metrics.counts()
    assert counts is not None, "metrics of all tasks have counts"
    return counts


def require_same_images(models: Sequence[Sequence[Evaluation]]) -> None:
    """Raise `BadData` unless all seeds of all models were measured on one split."""
    first, *others = [one for model in models for one in model]
    for other in others:
        if other.images.fingerprint() != first.images.fingerprint():
            raise BadData(
                f"{other.source} was measured on other images ({len(other.images)} of {other.split}) than "
                f"{first.source} ({len(first.images)} of {first.split}); pass data with a val split, or --split"
            )
