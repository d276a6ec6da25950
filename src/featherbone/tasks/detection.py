"""Detection and instance segmentation: from the raw tensors of a head to the objects of each image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from featherbone.data.frames import IN_IMAGE, Frame
from featherbone.data.objects import Objects
from featherbone.data.samples import DetectionSamples
from featherbone.data.split import Split
from featherbone.data.transforms import Preprocessing
from featherbone.errors import BadData
from featherbone.heads.box_decoder import HeadDecoder, picked_objects
from featherbone.heads.mask_rcnn import MaskRCNN
from featherbone.heads.nms_free import NMSFree
from featherbone.heads.nms_free_masks import PrototypeMasks
from featherbone.heads.retinanet import RetinaNet
from featherbone.heads.yolov3 import YOLOv3
from featherbone.metrics.audit import ObjectAudit
from featherbone.metrics.detection import DetectionMetrics
from featherbone.ops import rle
from featherbone.ops.boxes import Found, Picked, Target
from featherbone.ops.paste import paste_masks
from featherbone.results import Box, Detections, Instances, Record
from featherbone.tasks.card import Card
from featherbone.tasks.dense import HEAD_OPTIONS, SMALL_DATA, augmentation_of, build_head_decoder
from featherbone.tasks.kind import Item, Kind, named
from featherbone.tasks.likeness import compare_objects

DEFAULT_SCORE = 0.3
"""Minimum score of an object that is shown, where a run has found no better one on its validation images."""
OBJECT_OPTIONS = HEAD_OPTIONS | {"iou_crop", "mosaic", "unlabelled", "crowds", "operating_point"}
OBJECT_DEFAULTS = {"batch_size": 8, "warmup_epochs": 1, "clip_grad": 10.0, "scale": (0.6, 1.4), "photometric": 0.5}
NUM_DRAWN = 4
"""Objects of an image in `draw_objects`."""


@dataclass(frozen=True)
class ObjectDecoder:
    """Objects of `classes`, found by the decoder of a head; in instance segmentation with their masks."""

    kind: str
    classes: tuple[str, ...]
    head: HeadDecoder
    with_probabilities: bool = False
    """Whether records hold the probabilities of masks."""

    @property
    def raw(self) -> Any:
        return self.head.raw

    def __call__(self, raw: Any, frames: Sequence[Frame], *, score: float | None = None) -> list[Detections]:
        """The objects of each image with a score above `score`, in pixels of the image that its frame describes.

        By default the head's low threshold, which average precision needs. `Picked` tensors come from a network that
        ends behind NMS.
        """
        return [self.record(*image) for image in zip(self.objects(raw, frames, score), frames, strict=True)]

    def objects(self, raw: Any, frames: Sequence[Frame], score: float | None = None) -> list[Found]:
        """The same as tensors on the CPU, with boxes in the images; those in the padding are omitted."""
        sizes = torch.tensor([frame.inner for frame in frames])
        found = picked_objects(raw, score) if isinstance(raw, Picked) else self.head(raw, sizes, score)
        return [_in_image(objects, frame) for objects, frame in zip(found, frames, strict=True)]

    def tensors(self, raw: Any, frame: Frame) -> dict[str, Tensor]:
        found = self.head.tensors(raw, torch.tensor([frame.inner]))
        return {**found, "boxes": frame.to_image(found["boxes"])}

    def exhaustive(self) -> "ObjectDecoder":
        return replace(self, with_probabilities=True)

    def describe(self, shown: float | None) -> dict[str, Any]:
        return {**self.head.describe(), "shown": shown, "image": IN_IMAGE}

    def record(self, found: Found, frame: Frame) -> Detections:
        """The record of `objects`."""
        rows: list[Box] = [(x1, y1, x2, y2) for x1, y1, x2, y2 in found.boxes.tolist()]
        labels = found.labels.tolist()
        record = Detections(
            height=frame.height,
            width=frame.width,
            boxes=tuple(rows),
            labels=tuple(labels),
            names=tuple(self.classes[i] for i in labels),
            scores=tuple(found.scores.tolist()),
        )
        if found.masks is None:
            return record
        masks = paste_masks(found.masks, found.boxes, frame.height, frame.width)
        probabilities = found.masks.numpy() if self.with_probabilities else None
        return Instances(**vars(record), masks=tuple(masks), probabilities=probabilities)


def _in_image(found: Found, frame: Frame) -> Found:
    boxes = frame.to_image(found.boxes.float().cpu())
    kept = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1).nonzero()[:, 0]
    masks = None if found.masks is None else found.masks.float().cpu()[kept]
    return Found(boxes[kept], found.labels.cpu()[kept], found.scores.cpu()[kept], masks)


class DetectionKind(Kind):
    """Objects as boxes."""

    name = "detection"
    record: ClassVar[type[Record]] = Detections
    headline = "AP"
    same = staticmethod(compare_objects)
    explained = "the score of the object"
    figures: ClassVar[Mapping[str, str]] = named("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
    heads: ClassVar[dict[str, Any]] = {"retinanet": RetinaNet, "yolov3": YOLOv3, "nms_free": NMSFree}
    score = DEFAULT_SCORE
    inference = frozenset({"score", "tile"})
    options = OBJECT_OPTIONS
    defaults: ClassVar[Mapping[str, Any]] = OBJECT_DEFAULTS
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small-data": SMALL_DATA | {"batch_size": 4, "lr": 1e-3, "mosaic": 0.5}
    }
    has_validation_loss = True
    masks: ClassVar[bool] = False
    """Whether objects have masks."""

    def decoder(self, card: Card, strides: Sequence[float]) -> ObjectDecoder:
        return ObjectDecoder(self.name, card.classes, build_head_decoder(card, self.find_head(card.head)[1], strides))

    def metrics(self, source: Any) -> DetectionMetrics:
        return DetectionMetrics(source.classes, self.masks)

    def audit(self, source: Any) -> ObjectAudit:
        return ObjectAudit(source.classes)

    def items(
        self, decoder: ObjectDecoder, raw: Any, frame: Frame, score: float | None
    ) -> tuple[Detections, list[Item]]:
        [found] = decoder.objects(raw, [frame], score)
        record = decoder.record(found, frame)
        return record, [
            Item(name, partial(found.scores.select, 0, i), own, region=partial(region_of, record, i))
            for i, (name, own) in enumerate(zip(record.names, record.scores, strict=True))
        ]

    def truth_record(self, truth: Any, split: Split[Any]) -> Detections:
        return truth.record(split.classes, self.masks)

    def target_record(self, target: Target, image: Tensor, split: Split[Any]) -> Detections:
        height, width = image.shape[1:]
        masks = None if target.masks is None else tuple(target.masks.numpy())
        objects = Objects.of_boxes((height, width), target.boxes.numpy(), target.labels.numpy(), masks=masks)
        return objects.record(split.classes, masks is not None)

    def class_notes(self, metrics: Mapping[str, Any], split: Split[Any]) -> list[str]:
        return [f"{count} objects" for count in metrics["objects_per_class"]]

    def samples(self, split: Any, preprocessing: Preprocessing, settings: Any, training: bool) -> DetectionSamples:
        augmentation = augmentation_of(settings) if training else None
        return DetectionSamples(split, preprocessing, augmentation, settings.seed, self.masks and training)

    def check(self, data: Path, splits: Mapping[str, Any], training: bool) -> None:
        for split, images in splits.items():
            if images.table.crowd.all():
                raise BadData(f"{data}: no object on the {split} images; annotate some")

    def draw_targets(self, decoder: Any, size: tuple[int, int, int], draw: torch.Generator) -> list[Target]:
        return draw_objects(len(decoder.classes), size, draw)


class InstanceKind(DetectionKind):
    """Objects as boxes and masks."""

    name = "instance"
    record = Instances
    headline = "mask_AP"
    figures: ClassVar[Mapping[str, str]] = named(
        "AP", "AP50", "mask_AP", "mask_AP50", "AP75", "APs", "APm", "APl", "AR100"
    )
    heads: ClassVar[dict[str, Any]] = {"mask_rcnn": MaskRCNN, "nms_free_masks": PrototypeMasks}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small-data": SMALL_DATA}
    has_validation_loss = False
    masks = True


def region_of(record: Detections, index: int) -> rle.Bools:
    """The pixels (H, W) of an object's mask, or of its box."""
    if isinstance(record, Instances):
        return rle.decode(record.masks[index])
    region = np.zeros((record.height, record.width), bool)
    x1, y1, x2, y2 = record.boxes[index]
    region[int(y1) : ceil(y2), int(x1) : ceil(x2)] = True
    return region


def draw_objects(num_classes: int, size: tuple[int, int, int], draw: torch.Generator) -> list[Target]:
    """Random targets of a batch of `size` (B, H, W), to measure a step of training."""
    b, h, w = size
    corner = torch.rand(b, NUM_DRAWN, 2, generator=draw) * torch.tensor([w, h]) / 2
    boxes = torch.cat((corner, corner + torch.tensor([w, h]) / 3), 2)
    labels = torch.randint(num_classes, (b, NUM_DRAWN), generator=draw)
    masks: Tensor = torch.ones(b, NUM_DRAWN, h, w, dtype=torch.bool)
    return [Target(*one) for one in zip(boxes, labels, masks, strict=True)]
