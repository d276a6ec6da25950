"""The protocol of a task, and one row per task: everything that depends on the task is in `KINDS`.

A task has three parts: `forward`, from images to raw tensors, the only part that is exported; `losses`, from raw
tensors and targets to named terms; and a `decoder` without weights, from raw tensors to records. Whoever has raw
tensors and a decoder has results: training, prediction, exported files and their comparison share one decoder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from featherbone.data.frames import Frame
from featherbone.errors import BadOption, BadRun, did_you_mean
from featherbone.heads.mask_rcnn import MaskDecoder, MaskRCNN
from featherbone.heads.panoptic_fpn import LightPanopticFPN, PanopticFPN
from featherbone.heads.pixels import PixelLoss
from featherbone.heads.retinanet import RetinaNet
from featherbone.heads.segformer import SegFormer
from featherbone.heads.semantic_fpn import SemanticFPN
from featherbone.heads.yolov3 import YOLOv3
from featherbone.results import Classification, Detections, Instances, PanopticMap, Record, SemanticMap
from featherbone.tasks.card import Card
from featherbone.tasks.classification import ClassDecoder, ClassTargets, build_classifier
from featherbone.tasks.dense import DenseTask, build_head, build_head_decoder, build_pyramid
from featherbone.tasks.detection import SURE, ObjectDecoder, draw_objects
from featherbone.tasks.likeness import (
    Likeness,
    compare_class_maps,
    compare_classes,
    compare_objects,
    compare_segments,
)
from featherbone.tasks.panoptic import KEPT, PanopticDecoder, draw_panoptic_targets
from featherbone.tasks.semantic import ClassMapDecoder


class Decoder(Protocol):
    """From raw tensors to records, without weights; `decoder_of` builds one."""

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

    def exhaustive(self) -> "Decoder":
        """A decoder whose records hold everything that raw tensors give, to compare two of them."""

    def describe(self, shown: float) -> dict[str, Any]:
        """What a program needs to decode the raw tensors; objects below the score `shown` are not shown to people."""


class Task(Protocol):
    """A model for a task."""

    decoder: Decoder

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""

    def forward(self, images: Tensor) -> Any:
        """Normalised images (B, 3, H, W) to raw tensors; their structure is fixed in evaluation."""

    def losses(self, raw: Any, targets: Any) -> dict[str, Tensor]:
        """Named terms whose sum is minimised, from what `forward` returns in training."""


@dataclass(frozen=True)
class Kind:
    """A task: everything that differs from one task to another."""

    name: str
    record: type[Record]
    decoder: Callable[[Card, Sequence[float]], Decoder]
    """From a card and the strides of the head's maps."""
    same: Callable[..., Likeness]
    """Compares two records of one image; `score` is the tolerance of scores, objects above `limit` count."""
    draw_targets: Callable[[Any, tuple[int, int, int], torch.Generator], Any]
    """Random targets of a batch (B, H, W) for a decoder's task, to measure a step of training."""
    heads: Mapping[str, Any] = field(default_factory=dict)
    """Heads by name, the default first; none where the backbone's classifier gives the result."""
    counts: Callable[[Card], tuple[int, ...]] = lambda card: (len(card.classes),)
    """Numbers of classes that a head takes."""
    loss: Callable[[], Callable[[Any, Any], dict[str, Tensor]]] | None = None
    """The loss, where it is not the head's."""
    score: float | None = None
    """Score above which objects are shown, where a run has found no better one; None for a task without objects."""
    inference: frozenset[str] = frozenset()
    """Options of prediction and evaluation that have an effect: score, tile, slide, scales, mirror."""
    options: frozenset[str] = frozenset()
    """Settings of training that have an effect for this task and not for every other."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Settings of training whose defaults differ."""
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of each preset."""

    def find_head(self, name: str | None) -> tuple[str, Any]:
        """Name and class of a head, by default the first. Raises `BadOption`."""
        if not self.heads:
            if name is None:
                return "", None
            raise BadOption(f"head {name!r} has no effect for {self.name}; omit it, or choose the head's task")
        name = name or next(iter(self.heads))
        if name not in self.heads:
            near = did_you_mean(name, self.heads)
            raise BadOption(f"no head {name!r} for {self.name}{near}; available: {', '.join(self.heads)}")
        return name, self.heads[name]

    def shown_score(self, card: Card) -> float | None:
        """The score above which objects are shown: the best one on the validation images, else the usual one."""
        return self.score and (card.metrics.get("best_score") or self.score)


def kind_of(card: Card) -> Kind:
    """The row of a card's task. Raises `BadRun` for a task that this version does not know."""
    if card.task not in KINDS:
        raise BadRun(f"{card.backbone}: a run for {card.task!r}; this version knows {', '.join(KINDS)}")
    return KINDS[card.task]


def decoder_of(card: Card, strides: Sequence[float] = ()) -> Decoder:
    """The decoder of a card's raw tensors, without a network.

    `strides` of the head's maps are needed for heads with anchors; an exported file states them in its manifest.
    """
    return kind_of(card).decoder(card, strides)


def assemble(card: Card, model_args: Mapping[str, Any], pretrained: bool, checkpoint: str | None) -> Any:
    """The network of a card, with these keyword arguments of its backbone, as a `Task`."""
    kind = kind_of(card)
    if not kind.heads:
        return build_classifier(card.backbone, card.classes, dict(model_args), pretrained, checkpoint)
    head_class = kind.find_head(card.head)[1]
    pyramid = build_pyramid(card, model_args, pretrained, checkpoint)
    head = build_head(card, head_class, pyramid, kind.counts(card))
    decoder = decoder_of(card, getattr(head, "strides", ()))
    return DenseTask(pyramid, head, decoder, kind.loss and kind.loss())


def _object_decoder(card: Card, strides: Sequence[float]) -> ObjectDecoder:
    head = kind_of(card).find_head(card.head)[1]
    return ObjectDecoder(card.task, card.classes, build_head_decoder(card, head, strides))


def _class_targets(decoder: Any, size: tuple[int, int, int], draw: torch.Generator) -> ClassTargets:
    count = len(decoder.classes)
    labels = torch.randint(count, (size[0],), generator=draw)
    return ClassTargets(torch.nn.functional.one_hot(labels, count).float())


HEAD_OPTIONS = frozenset(
    {"head", "head_args", "head_lr", "scale", "photometric", "expand", "backbone_from", "freeze_norm"}
)
OBJECT_OPTIONS = HEAD_OPTIONS | {"iou_crop", "mosaic", "unlabelled", "crowds"}
OBJECT_DEFAULTS = {
    "batch_size": 8,
    "warmup_epochs": 1,
    "clip_grad": 10.0,
    "scale": (0.6, 1.4),
    "photometric": 0.5,
}
SMALL_DATA = {"batch_size": 2, "epochs": 100, "lr": 3e-4, "warmup_epochs": 3, "ema": 0.998}
"""The preset small-data of Mask R-CNN and the panoptic heads: tens to hundreds of images."""

ROWS = (
    Kind(
        name="classification",
        record=Classification,
        decoder=lambda card, strides: ClassDecoder(card.classes),
        same=compare_classes,
        draw_targets=_class_targets,
        options=frozenset(
            {"smoothing", "mixup", "cutmix", "auto_augment", "color_jitter", "erasing", "min_area", "dropout"}
            | {"teacher", "distillation", "distillation_weight", "temperature"}
        ),
        presets={
            "small-data": {
                "batch_size": 16,
                "epochs": 100,
                "warmup_epochs": 5,
                "clip_grad": 1.0,
                "mixup": 0.2,
                "cutmix": 0.0,
                "auto_augment": "rand-m6-mstd0.5-inc1",
                "ema": 0.995,
            }
        },
    ),
    Kind(
        name="detection",
        record=Detections,
        decoder=_object_decoder,
        same=compare_objects,
        draw_targets=lambda decoder, size, draw: draw_objects(len(decoder.classes), size, draw),
        heads={"retinanet": RetinaNet, "yolov3": YOLOv3},
        score=SURE,
        inference=frozenset({"score", "tile"}),
        options=OBJECT_OPTIONS,
        defaults=OBJECT_DEFAULTS,
        presets={"small-data": SMALL_DATA | {"batch_size": 4, "lr": 1e-3, "mosaic": 0.5}},
    ),
    Kind(
        name="instance",
        record=Instances,
        decoder=_object_decoder,
        same=compare_objects,
        draw_targets=lambda decoder, size, draw: draw_objects(len(decoder.classes), size, draw),
        heads={"mask_rcnn": MaskRCNN},
        score=SURE,
        inference=frozenset({"score", "tile"}),
        options=OBJECT_OPTIONS,
        defaults=OBJECT_DEFAULTS,
        presets={"small-data": SMALL_DATA},
    ),
    Kind(
        name="semantic",
        record=SemanticMap,
        decoder=lambda card, strides: ClassMapDecoder(card.classes),
        same=compare_class_maps,
        draw_targets=lambda decoder, size, draw: torch.randint(len(decoder.classes), size, generator=draw),
        heads={"segformer": SegFormer, "semantic_fpn": SemanticFPN},
        loss=PixelLoss,
        inference=frozenset({"slide", "scales", "mirror"}),
        options=HEAD_OPTIONS | {"class_share", "ignore_index", "zero_ignored", "class_weights", "hard_share", "dice"},
        defaults={
            "batch_size": 8,
            "warmup_epochs": 1,
            "schedule": "poly",
            "scale": (0.5, 2.0),
            "photometric": 0.5,
            "class_share": 0.75,
        },
        presets={"small-data": SMALL_DATA | {"batch_size": 4, "lr": 2e-3, "clip_grad": 1.0, "scale": (0.8, 1.5)}},
    ),
    Kind(
        name="panoptic",
        record=PanopticMap,
        decoder=lambda card, strides: PanopticDecoder(card.classes, card.things, MaskDecoder()),
        same=compare_segments,
        draw_targets=lambda decoder, size, draw: draw_panoptic_targets(
            len(decoder.things), len(decoder.stuff), size, draw
        ),
        heads={"panoptic_fpn_light": LightPanopticFPN, "panoptic_fpn": PanopticFPN},
        counts=lambda card: (len(card.things), len(card.classes) - len(card.things)),
        score=KEPT,
        inference=frozenset({"score"}),
        options=HEAD_OPTIONS | {"iou_crop"},
        defaults=OBJECT_DEFAULTS,
        presets={"small-data": SMALL_DATA},
    ),
)
KINDS: dict[str, Kind] = {row.name: row for row in ROWS}
"""The tasks by name."""
