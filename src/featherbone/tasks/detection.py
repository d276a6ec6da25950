"""Detection and instance segmentation: from the raw tensors of a head to the objects of each image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featherbone.data.frames import IN_IMAGE, Frame
from featherbone.heads.box_decoder import HeadDecoder, picked_objects
from featherbone.ops.boxes import Found, Picked, Target
from featherbone.ops.paste import paste_masks
from featherbone.results import Box, Detections, Instances

SURE = 0.3
"""Minimum score of an object that is shown, where a run has found no better one on its validation images."""
NUM_DRAWN = 4
"""Objects of an image in `draw_objects`."""


@dataclass(frozen=True)
class ObjectDecoder:
    """Objects of `classes`, found by the decoder of a head; in instance segmentation with their masks."""

    kind: str
    classes: tuple[str, ...]
    head: HeadDecoder

    @property
    def raw(self) -> Any:
        """Type of the raw tensors."""
        return self.head.raw

    def __call__(self, raw: Any, frames: Sequence[Frame], *, score: float | None = None) -> list[Detections]:
        """The objects of each image with a score above `score`, in pixels of the image that its frame describes.

        By default the head's low threshold, which average precision needs. `Picked` tensors come from a network that
        ends behind NMS.
        """
        found = picked_objects(raw, score) if isinstance(raw, Picked) else self.head(raw, score)
        return [self._record(objects, frame) for objects, frame in zip(found, frames, strict=True)]

    def exhaustive(self) -> "ObjectDecoder":
        """The decoder itself: its records hold everything above the score."""
        return self

    def describe(self, shown: float) -> dict[str, Any]:
        """What a program needs to decode the raw tensors; objects below `shown` are not shown to people."""
        return {**self.head.describe(), "shown": shown, "image": IN_IMAGE}

    def _record(self, found: Found, frame: Frame) -> Detections:
        boxes = frame.to_image(found.boxes.float().cpu())
        kept = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1).nonzero()[:, 0]  # the others are in the padding
        boxes, labels, scores = boxes[kept], found.labels.cpu()[kept].tolist(), found.scores.cpu()[kept].tolist()
        rows: list[Box] = [(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes.tolist()]
        record = Detections(
            height=frame.height,
            width=frame.width,
            boxes=tuple(rows),
            labels=tuple(labels),
            names=tuple(self.classes[i] for i in labels),
            scores=tuple(scores),
        )
        if found.masks is None:
            return record
        masks = paste_masks(found.masks.float().cpu()[kept], boxes, frame.height, frame.width)
        return Instances(**vars(record), masks=tuple(masks))


def draw_objects(num_classes: int, size: tuple[int, int, int], draw: torch.Generator) -> list[Target]:
    """Random targets of a batch of `size` (B, H, W), to measure a step of training."""
    b, h, w = size
    corner = torch.rand(b, NUM_DRAWN, 2, generator=draw) * torch.tensor([w, h]) / 2
    boxes = torch.cat((corner, corner + torch.tensor([w, h]) / 3), 2)
    labels = torch.randint(num_classes, (b, NUM_DRAWN), generator=draw)
    masks: Tensor = torch.ones(b, NUM_DRAWN, h, w, dtype=torch.bool)
    return [Target(*one) for one in zip(boxes, labels, masks, strict=True)]
