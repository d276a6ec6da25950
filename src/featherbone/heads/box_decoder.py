"""From a detector's raw maps to objects: the best candidates of each level, NMS within each class, the best of all."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from featherbone.ops.boxes import SELECTION, Found, Picked, clip_boxes, pick_surest

Candidates = tuple[Tensor, Tensor, Tensor]
"""Boxes (B, n, 4), labels (B, n) and scores (B, n)."""


class HeadDecoder(Protocol):
    """The decoder of a head that finds objects; it has no weights."""

    raw: ClassVar[Any]
    """Type of the raw tensors, as `forward` returns them in evaluation."""

    @property
    def score(self) -> float:
        """Score above which an object counts by default."""

    def __call__(self, raw: Any, sizes: Tensor, score: float | None = None) -> list[Found]:
        """The objects of each image with a score above `score`, in pixels of the network's input.

        `sizes` (B, 2) are height and width of the scaled image on each input.
        """

    def tensors(self, raw: Any, sizes: Tensor) -> dict[str, Tensor]:
        """The objects of the first image in tensors of fixed shapes: boxes (n, 4), scores (n,), labels and masks."""

    def describe(self) -> dict[str, Any]:
        """What a program needs to decode the raw tensors."""


@dataclass(frozen=True)
class BoxDecoder(ABC):
    """What RetinaNet and YOLOv3 share.

    Of each level the `candidates` highest-scoring pairs of anchor and class are read. Of those above `score`, boxes
    that overlap a higher-scoring one of their class by more than `nms` in IoU are dropped; at most `limit` remain.
    """

    raw: ClassVar[Any]
    num_levels: ClassVar[int]

    strides: tuple[float, ...]
    """Strides of the levels, finest first."""
    score: float = 0.05
    candidates: int = 1000
    nms: float = 0.5
    limit: int = 100

    def __post_init__(self) -> None:
        check_strides(self.strides, self.num_levels)

    @abstractmethod
    def levels(self, raw: Any) -> list[Candidates]:
        """The candidates of each level."""

    def __call__(self, raw: Any, sizes: Tensor, score: float | None = None) -> list[Found]:
        return picked_objects(self.pick(raw, sizes, score))

    def pick(self, raw: Any, sizes: Tensor, score: float | None = None) -> Picked:
        """The same in tensors of fixed shapes, for NMS inside an exported file."""
        limits = (self.score if score is None else score, self.nms, self.limit)
        images = [pick_surest(*image, *limits) for image in zip(*self.select_candidates(raw, sizes), strict=True)]
        boxes, labels, scores = (torch.stack(parts) for parts in zip(*images, strict=True))
        return Picked(boxes, scores, labels)

    def tensors(self, raw: Any, sizes: Tensor) -> dict[str, Tensor]:
        return first_image(self.pick(raw, sizes))

    def select_candidates(self, raw: Any, sizes: Tensor) -> Candidates:
        """The candidates of all levels before NMS, cut at the borders of images of `sizes` (B, 2)."""
        boxes, labels, scores = (torch.cat(parts, 1) for parts in zip(*self.levels(raw), strict=True))
        return clip_boxes(boxes, sizes), labels, scores

    def rules(self) -> dict[str, Any]:
        """The part of `describe` that is the same for all."""
        clip = {"x": "0 to inner_width", "y": "0 to inner_height"}
        limits = {"score": self.score, "candidates": self.candidates, "nms": self.nms, "limit": self.limit}
        return {"strides": list(self.strides), "clip": clip, **SELECTION, **limits}


def check_strides(strides: Sequence[float], num_levels: int) -> None:
    """Raise `ValueError` unless there is a stride for each level."""
    if len(strides) != num_levels:
        raise ValueError(f"{len(strides)} strides for {num_levels} levels; give those of the network's maps")


def first_image(picked: Any) -> dict[str, Tensor]:
    """The first image of `Picked`, or of tensors that have masks beside, by the names of the fields."""
    return {name: values[0] for name, values in picked._asdict().items()}


def picked_objects(raw: Any, score: float | None = None) -> list[Found]:
    """The objects of each image above a score, by default 0, from `Picked` or from tensors that have masks beside."""
    images = zip(raw.boxes, raw.labels, raw.scores, *raw[3:], strict=True)
    return [Found(*(part[image[2] > (score or 0)] for part in image)) for image in images]
