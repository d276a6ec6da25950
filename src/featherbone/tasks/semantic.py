"""Semantic segmentation: from logits to the class of every pixel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featherbone.data.formats.masks import check_two_classes, count_pixels, read_maps
from featherbone.data.frames import Frame
from featherbone.data.samples import SemanticSamples
from featherbone.data.split import Split
from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadData, BadOption
from featherbone.heads.pixels import PixelLoss
from featherbone.heads.segformer import SegFormer
from featherbone.heads.semantic_fpn import SemanticFPN
from featherbone.metrics.audit import RegionAudit
from featherbone.metrics.semantic import SemanticMetrics
from featherbone.ops.label_maps import AT_ONCE, IGNORE, LABEL_MAP, label_map, resize
from featherbone.results import SemanticMap
from featherbone.tasks.card import Card
from featherbone.tasks.dense import HEAD_OPTIONS, SMALL_DATA, augmentation_of
from featherbone.tasks.kind import Item, Kind, named
from featherbone.tasks.likeness import compare_class_maps

MAX_WEIGHT = 10.0
"""Maximum weight of a class by its frequency."""


@dataclass(frozen=True)
class ClassMapDecoder:
    """The class of every pixel, from logits at stride 4."""

    classes: tuple[str, ...]
    with_scores: bool = False
    """Whether maps have the probability of each pixel's class."""
    kind: ClassVar[str] = "semantic"
    raw: ClassVar[Any] = Tensor

    def __call__(self, raw: Tensor, frames: Sequence[Frame], *, score: float | None = None) -> list[SemanticMap]:
        """The map of each image that its frame describes, from logits (B, K, h, w); `score` has no effect."""
        found = []
        for logits, frame in zip(raw, frames, strict=True):
            labels = label_map(logits.detach(), frame.canvas, frame.inner, frame.size)
            scores = None
            if self.with_scores:
                best = logits.detach().float().softmax(0).amax(0)
                scores = resize(best, frame.canvas, frame.inner, frame.size).cpu().numpy()
            found.append(SemanticMap(labels.cpu().numpy(), self.classes, scores))
        return found

    def tensors(self, raw: Tensor, frame: Frame) -> dict[str, Tensor]:
        return {"label_map": label_map(raw[0], frame.canvas, frame.inner, frame.size, AT_ONCE)}

    def exhaustive(self) -> "ClassMapDecoder":
        return replace(self, with_scores=True)

    def describe(self, shown: float | None) -> dict[str, Any]:
        return {"kind": "label_map", "outputs": {"logits": "(B, class, row, column)"}, **LABEL_MAP}


class SemanticKind(Kind):
    """A class for every pixel."""

    name = "semantic"
    record = SemanticMap
    headline = "mIoU"
    same = staticmethod(compare_class_maps)
    explained = "the mean logit of the class over its region (Seg-Grad-CAM, arXiv 2002.11434)"
    figures: ClassVar[Mapping[str, str]] = named("mIoU", "boundary_mIoU", "pixel_accuracy", "mean_accuracy")
    heads: ClassVar[dict[str, Any]] = {"segformer": SegFormer, "semantic_fpn": SemanticFPN}
    inference = frozenset({"slide", "scales", "mirror"})
    options = HEAD_OPTIONS | {"class_share", "ignore_index", "zero_ignored", "class_weights", "hard_share", "dice"}
    defaults: ClassVar[Mapping[str, Any]] = {
        "batch_size": 8,
        "warmup_epochs": 1,
        "schedule": "poly",
        "scale": (0.5, 2.0),
        "photometric": 0.5,
        "class_share": 0.75,
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small-data": SMALL_DATA | {"batch_size": 4, "lr": 2e-3, "clip_grad": 1.0, "scale": (0.8, 1.5)}
    }
    has_validation_loss = True
    is_map = True

    def loss(self) -> PixelLoss:
        return PixelLoss()

    def decoder(self, card: Card, strides: Sequence[float]) -> ClassMapDecoder:
        return ClassMapDecoder(card.classes)

    def metrics(self, source: Any) -> SemanticMetrics:
        return SemanticMetrics(len(source.classes))

    def items(
        self, decoder: ClassMapDecoder, raw: Tensor, frame: Frame, score: float | None
    ) -> tuple[SemanticMap, list[Item]]:
        [record] = decoder(raw, [frame])

        def region(label: int) -> NDArray[np.bool_]:
            return record.labels == label

        def value(label: int) -> Tensor:
            scores = resize(raw[0, label], frame.canvas, frame.inner, frame.size)
            return scores[torch.from_numpy(region(label)).to(scores.device)].mean()

        return record, [
            Item(record.classes[i], partial(value, i), share=n / record.labels.size, region=partial(region, i))
            for i, n in record.counts().items()
        ]

    def audit(self, source: Any) -> RegionAudit:
        return RegionAudit(source.classes)

    def truth_record(self, truth: NDArray[np.uint8], split: Split[Any]) -> SemanticMap:
        return SemanticMap(truth, split.classes)

    def target_record(self, target: Tensor, image: Tensor, split: Split[Any]) -> SemanticMap:
        return SemanticMap(target.numpy().astype(np.uint8), split.classes)

    def class_notes(self, metrics: Mapping[str, Any], split: Split[Any]) -> list[str]:
        pixels = np.array(metrics["pixels"], float)
        return [f"{share:.2%} of the pixels" for share in pixels / max(pixels.sum(), 1)]

    def samples(self, split: Any, preprocessing: Preprocessing, settings: Any, training: bool) -> SemanticSamples:
        return SemanticSamples(split, preprocessing, augmentation_of(settings) if training else None, settings.seed)

    def check(self, data: Path, splits: Mapping[str, Any], training: bool) -> None:
        if training:
            check_two_classes(splits["train"], data)
        name, images = list(splits.items())[-1]
        if not any((labels != IGNORE).any() for labels in read_maps(images, data, name)):
            raise BadData(f"{data}: no pixel of the {name} images has a class; annotate some")

    def set_loss(self, task: Any, settings: Any, train: Split[Any]) -> None:
        weights = class_weights(settings.class_weights, train)
        task.loss = PixelLoss(weights, settings.hard_share, settings.dice)

    def draw_targets(self, decoder: Any, size: tuple[int, int, int], draw: torch.Generator) -> Tensor:
        return torch.randint(len(decoder.classes), size, generator=draw)


def class_weights(given: str, train: Any) -> tuple[float, ...] | None:
    """Weights of the classes in the loss, by the setting of that name: none, numbers, or balanced.

    Balanced weights are the median frequency over that of the class (arXiv 1411.4734), from 1 / `MAX_WEIGHT` to
    `MAX_WEIGHT`. Raises `BadOption`.
    """
    if not given:
        return None
    if given == "balanced":
        counts = count_pixels(train).astype(float)
        weights = np.median(counts[counts > 0]) / np.maximum(counts, 1)
        return tuple(np.where(counts > 0, weights.clip(1 / MAX_WEIGHT, MAX_WEIGHT), 1.0).tolist())
    try:
        numbers = tuple(float(word) for word in given.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != len(train.classes) or min(numbers) < 0 or max(numbers) <= 0:
        raise BadOption(
            f"class_weights {given!r}: write balanced, or {len(train.classes)} numbers separated by commas, one for "
            f"each of {', '.join(train.classes[:5])} ..."
        )
    return numbers
