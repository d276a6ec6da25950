"""Panoptic segmentation: from the raw tensors of a head to one map of things and stuff."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from featherbone.data.frames import IN_IMAGE, Frame
from featherbone.heads.box_decoder import HeadDecoder
from featherbone.heads.mask_rcnn import OUTPUTS
from featherbone.heads.panoptic_fpn import PanopticRaw
from featherbone.ops.boxes import FOUND, Found
from featherbone.ops.label_maps import FUSION, LABEL_MAP, PanopticTarget, fuse, label_map
from featherbone.ops.paste import PASTE, paste_masks
from featherbone.ops.rle import box_of
from featherbone.results import PanopticMap, Segment
from featherbone.tasks.detection import draw_objects

KEPT = 0.6
"""Minimum score of a thing."""
DOUBLE = 0.5
"""IoU of boxes above which two things, of any classes, are duplicates."""
STUFF = 4096 / (640 * 480)
"""Minimum share of an image that a stuff class covers: 4,096 pixels of a COCO image."""


@dataclass(frozen=True)
class PanopticDecoder:
    """The segments of an image, from the raw tensors of a panoptic head; `things` are indices of `classes`.

    Stuff classes that cover less than the share `stuff_share` of the image are dropped.
    """

    classes: tuple[str, ...]
    things: tuple[int, ...]
    head: HeadDecoder
    """Decoder of the things."""
    stuff_share: float = STUFF
    kind: ClassVar[str] = "panoptic"
    raw: ClassVar[Any] = PanopticRaw

    @property
    def stuff(self) -> tuple[int, ...]:
        """Indices of the other classes."""
        return tuple(i for i in range(len(self.classes)) if i not in self.things)

    def __call__(self, raw: PanopticRaw, frames: Sequence[Frame], *, score: float | None = None) -> list[PanopticMap]:
        """The map of each image that its frame describes, with the things of a score above `score`."""
        found = self.head(raw.things, KEPT if score is None else score)
        return [self._map(*image) for image in zip(found, raw.stuff, frames, strict=True)]

    def exhaustive(self) -> "PanopticDecoder":
        """The decoder itself: its records hold every pixel."""
        return self

    def describe(self, shown: float) -> dict[str, Any]:
        """What a program needs to decode the raw tensors."""
        things = {f"things_{name}": shape for name, shape in OUTPUTS.items()}
        return {
            "kind": "panoptic",
            "outputs": {**things, "stuff": "(B, 1 + stuff, row, column)"},
            "score": KEPT,
            "double": DOUBLE,
            "overlap": 0.5,
            "stuff_share": self.stuff_share,
            "stuff": self.stuff,
            "thing_class": "things[label]",
            "stuff_class": "stuff[channel - 1], channel 0 is any thing",
            "double_per": "image",
            "double_rule": "iou(box, higher_scoring_kept_box) > double, in the image",
            "fusion": FUSION,
            "map": LABEL_MAP,
            "image": IN_IMAGE,
            **FOUND,
            **PASTE,
        }

    def _map(self, found: Found, logits: Tensor, frame: Frame) -> PanopticMap:
        boxes = frame.to_image(found.boxes.float().cpu())
        scores, labels = found.scores.float().cpu(), found.labels.cpu()
        kept = nms(boxes, scores, DOUBLE)  # highest score first
        kept = kept[((boxes[kept, 2:] - boxes[kept, :2]) > 0).all(1)]
        assert found.masks is not None, "Mask R-CNN finds masks"
        masks = paste_masks(found.masks.float().cpu()[kept], boxes[kept], frame.height, frame.width)
        best = label_map(logits, frame.canvas, frame.inner, frame.size).cpu().numpy()
        fused = fuse(masks, best, len(self.stuff), self.stuff_share * best.size)
        segments: list[tuple[int, float | None]] = [
            (self.things[int(labels[kept[i]])], float(scores[kept[i]])) for i in fused.things
        ]
        segments += [(self.stuff[i], None) for i in fused.stuff]
        return panoptic_map(fused.ids, segments, self.classes, self.things)


def draw_panoptic_targets(
    num_things: int, num_stuff: int, size: tuple[int, int, int], draw: torch.Generator
) -> list[PanopticTarget]:
    """Random targets of a batch of `size` (B, H, W), to measure a step of training."""
    things = draw_objects(num_things, size, draw)
    stuff = torch.randint(1 + num_stuff, size, generator=draw)
    return [PanopticTarget(*one) for one in zip(things, stuff, strict=True)]


def panoptic_map(
    ids: np.ndarray[Any, np.dtype[np.int32]],
    segments: Sequence[tuple[int, float | None]],
    classes: Sequence[str],
    things: Sequence[int],
) -> PanopticMap:
    """The record of a map whose value 1 + i, where it occurs, is a segment of the class and score `segments[i]`."""
    found = []
    areas = np.bincount(ids.ravel(), minlength=len(segments) + 1)
    for number, (label, score) in enumerate(segments, 1):
        if not areas[number]:
            continue
        x1, y1, x2, y2 = map(float, box_of(ids == number))
        found.append(
            Segment(number, label, classes[label], label in things, score, int(areas[number]), (x1, y1, x2, y2))
        )
    return PanopticMap(ids, tuple(found))
