"""What a task is: the protocols of its decoder and its model, and the base of its row in `KINDS`.

A task has three parts: `forward`, from images to raw tensors, the only part that is exported; `losses`, from raw
tensors and targets to named terms; and a `decoder` without weights, from raw tensors to records. Whoever has raw
tensors and a decoder has results: training, prediction, exported files and their comparison share one decoder.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featherbone.data.frames import Frame
from featherbone.data.samples import collate, to_device
from featherbone.data.sampling import spread
from featherbone.data.split import Split
from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadOption, did_you_mean
from featherbone.metrics.audit import Audit
from featherbone.metrics.metrics import Metrics
from featherbone.metrics.outcome import Outcome
from featherbone.results import Record
from featherbone.tasks.card import Card
from featherbone.tasks.dense import Head, dense_preprocessing
from featherbone.tasks.likeness import Likeness


def named(*metrics: str) -> dict[str, str]:
    """Metrics by key, with their keys as names."""
    return {metric: metric.replace("_", " ") for metric in metrics}


@dataclass(frozen=True)
class Item:
    """A part of a record that can be explained: a class of an image, an object, a class on a map or a segment."""

    name: str
    """Class name."""
    value: Callable[[], Tensor]
    """The scalar that is explained, as autograd links it to the raw tensors."""
    score: float | None = None
    """From 0 to 1; None for a region without one."""
    share: float | None = None
    """Share of the image that a region covers; None where there is a score."""
    region: Callable[[], NDArray[np.bool_]] | None = None
    """Its pixels (H, W), or those of its box; None for the whole image."""


class Decoder(Protocol):
    """From raw tensors to records, without weights."""

    @property
    def kind(self) -> str:
        """Name of the task."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""

    @property
    def raw(self) -> Any:
        """Type of the raw tensors that `forward` returns in evaluation: a tensor or named tuple."""

    def __call__(self, raw: Any, frames: Sequence[Frame], *, score: float | None = None) -> list[Any]:
        """The record of each image that its frame describes; objects have a score above `score`."""

    def tensors(self, raw: Any, frame: Frame) -> dict[str, Tensor]:
        """The part of the first image's record that needs no loop over objects, as an exporter can trace it.

        `scores` and `labels` of classes or objects, highest score first; `boxes` in the image and `masks` over them of
        objects, whose score is 0 where there is none; `label_map` of the image's size.
        """

    def exhaustive(self) -> "Decoder":
        """A decoder whose records hold everything that raw tensors give, to compare two of them."""

    def describe(self, shown: float | None) -> dict[str, Any]:
        """What a program needs to decode the raw tensors; results below the score `shown` are not shown to people."""


class Task(Protocol):
    """A model for a task."""

    decoder: Decoder

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""

    def forward(self, images: Tensor, score: float = 0.0) -> Any:
        """Normalised images (B, C, H, W) to raw tensors; their structure is fixed in evaluation.

        A network may leave at 0 what only objects up to `score` need.
        """

    def losses(self, raw: Any, targets: Any) -> dict[str, Tensor]:
        """Named terms whose sum is minimised."""


class Kind(ABC):
    """Everything that differs from one task to another; `KINDS` in tasks/task.py holds one instance per task."""

    name: ClassVar[str]
    record: ClassVar[type[Record]]
    headline: ClassVar[str]
    """The validation metric by which weights are best."""
    figures: ClassVar[Mapping[str, str]]
    """Metrics shown to people and their names, in order; those of the first two are printed after each epoch."""
    model: ClassVar[Any] = None
    """Class of the model, where there are no heads."""
    heads: ClassVar[dict[str, Any]] = {}
    """Heads by name, the default first; none where the backbone's classifier gives the result."""
    extra_metrics: ClassVar[list[Callable[[Any], Metrics[Any, Any]]]]
    """Metrics registered beside those of the task, each made from the source that `metrics` takes."""
    explained: ClassVar[str]
    """The scalar of an `Item`, in the words of a page."""
    num_explained: ClassVar[int] = 5
    """Items of a record that are explained by default, the first ones."""
    score: ClassVar[float | None] = None
    """Score above which objects are shown, where a run has found no better one; None for a task without objects."""
    inference: ClassVar[frozenset[str]] = frozenset()
    """Options of prediction and evaluation that have an effect: score, tile, slide, scales, mirror."""
    options: ClassVar[frozenset[str]] = frozenset()
    """Settings of training that have an effect for this task but not for all."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Settings of training whose defaults differ."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Settings of each preset."""
    eval_batch: ClassVar[int] = 16
    """Images evaluated at a time, over all processes."""
    has_validation_loss: ClassVar[bool] = False
    """Whether `losses` takes what `forward` returns in evaluation."""
    is_map: ClassVar[bool] = False
    """Whether a record holds a value for every pixel, so that the records of a whole split do not fit in memory."""
    same: ClassVar[Callable[..., Likeness]]
    """Compares two records of one image; `score` is the tolerance of scores, objects above `limit` count."""
    collate: ClassVar[Callable[..., Any] | None] = staticmethod(collate)
    """How samples become a batch; None for torch's default."""

    def __init_subclass__(cls) -> None:
        cls.extra_metrics = []

    @classmethod
    def register_head(cls, name: str, head: type[Head]) -> None:
        """Make a head available by its name, for training, export and every command."""
        cls.heads[name] = head

    @classmethod
    def register_metrics(cls, metrics: Callable[[Any], Metrics[Any, Any]]) -> None:
        """Compute metrics in every evaluation of the task, made from a decoder or split that states `classes`."""
        cls.extra_metrics.append(metrics)

    def find_head(self, name: str | None) -> tuple[str | None, Any]:
        """Name and class of a head, by default the first; None twice for a task without heads. Raises `BadOption`."""
        if not self.heads and name is not None:
            raise BadOption(f"head {name!r} has no effect for {self.name}; omit it, or choose the head's task")
        if not self.heads:
            return None, None
        name = name or next(iter(self.heads))
        if name not in self.heads:
            near = did_you_mean(name, self.heads)
            raise BadOption(f"no head {name!r} for {self.name}{near}; available: {', '.join(self.heads)}")
        return name, self.heads[name]

    def preprocessing(self, model: str, head: Any, image_size: int | tuple[int, int] | None) -> Preprocessing:
        """The input of a model with a head, by default of the head's size."""
        return dense_preprocessing(model, head, image_size)

    def shown_score(self, card: Card) -> float | None:
        """The score above which results are shown; None where all are.

        It is that of the operating point, else of objects the best one on the validation images, else the usual one.
        """
        if point := card.metrics.get("operating_point"):
            return float(point["score"])
        return self.score and (card.metrics.get("best_score") or self.score)

    def counts(self, card: Card) -> tuple[int, ...]:
        """Numbers of classes that a head takes."""
        return (len(card.classes),)

    def loss(self) -> Callable[[Any, Any], dict[str, Tensor]] | None:
        """The loss, where it is not the head's."""
        return None

    @abstractmethod
    def decoder(self, card: Card, strides: Sequence[float]) -> Decoder:
        """The decoder of a card; `strides` are those of the head's maps."""

    @abstractmethod
    def metrics(self, source: Any) -> Metrics[Any, Any]:
        """Metrics without any image; a decoder or a split states `classes` and, if there are any, `things`."""

    def outcome(self, count: int, source: Any) -> Outcome:
        """What an evaluation of `count` images starts with; `source` is that of `metrics`."""
        extra = tuple(make(source) for make in self.extra_metrics)
        return Outcome(count, self.metrics(source), self.headline, extra, self.is_map)

    @abstractmethod
    def audit(self, source: Any) -> Audit:
        """An audit of labels without any image; a decoder states `classes`."""

    @abstractmethod
    def items(self, decoder: Any, raw: Any, frame: Frame, score: float | None) -> tuple[Record, list[Item]]:
        """The record of one image from its raw tensors, which autograd may follow, and the record's parts in order."""

    @abstractmethod
    def truth_record(self, truth: Any, split: Split[Any]) -> Record:
        """The annotation of an image as the record of a perfect model."""

    @abstractmethod
    def target_record(self, target: Any, image: Tensor, split: Split[Any]) -> Record:
        """The training target of an augmented image (C, H, W) as a record."""

    @abstractmethod
    def class_notes(self, metrics: Mapping[str, Any], split: Split[Any]) -> list[str]:
        """For each class how much of it was measured."""

    @abstractmethod
    def samples(self, split: Split[Any], preprocessing: Preprocessing, settings: Any, training: bool) -> Any:
        """Samples by (epoch, index): augmented as the settings state for training, else the whole images."""

    def things(self, split: Any) -> tuple[int, ...]:
        """Indices of the countable classes, in panoptic segmentation."""
        return ()

    def choose(self, split: Any, count: int) -> list[int]:
        """Indices of at most `count` images that represent a split."""
        return spread(len(split), count)

    def check(self, data: Path, splits: Mapping[str, Split[Any]], training: bool) -> None:  # noqa: B027  # optional
        """Raise `BadData` where the splits cannot be trained on or measured; reads few annotations."""

    def set_loss(self, task: Any, settings: Any, train: Split[Any]) -> None:  # noqa: B027  # optional
        """Configure the loss of a task by the settings of training."""

    def to_targets(self, batch: Any, decoder: Decoder, device: torch.device) -> tuple[Tensor, Any]:
        """A loaded batch as images and targets on a device."""
        return to_device(batch[0], device), to_device(batch[1], device)

    @abstractmethod
    def draw_targets(self, decoder: Any, size: tuple[int, int, int], draw: torch.Generator) -> Any:
        """Random targets of a batch (B, H, W), to measure a step of training."""
