"""Panoptic segmentation: things and stuff by one head, fused into one map."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torchvision.ops import nms

from featherbone.data.frames import IN_IMAGE, Frame
from featherbone.heads.mask_rcnn import OUTPUTS
from featherbone.heads.panoptic_fpn import PanopticRaw
from featherbone.ops.boxes import FOUND, Found
from featherbone.ops.label_maps import FUSION, LABEL_MAP, PanopticTarget, fuse, label_map
from featherbone.ops.paste import PASTE, paste_masks
from featherbone.ops.rle import box_of
from featherbone.results import PanopticMap, Segment
from featherbone.tasks.pyramid import Pyramid

KEPT = 0.6
"""Least score of a thing."""
DOUBLE = 0.5
"""IoU of boxes above which two things, of whatever classes, are one."""
STUFF = 4096 / (640 * 480)
"""Least share of an image that a kind of stuff covers: 4,096 pixels of COCO's."""


class PanopticSegmenter(nn.Module):
    """A pyramid under a panoptic head, with the names of its classes; `things` are the indices of those counted."""

    head: Any
    """A `PanopticFPN`."""

    def __init__(self, pyramid: Pyramid, head: nn.Module, classes: Sequence[str], things: Sequence[int]) -> None:
        super().__init__()
        self.pyramid, self.head = pyramid, head
        self.classes, self.things = tuple(classes), tuple(things)
        self.stuff = tuple(i for i in range(len(classes)) if i not in self.things)

    @property
    def backbone(self) -> Any:
        """The timm model."""
        return self.pyramid.backbone

    def forward(self, images: Tensor) -> PanopticRaw:
        """Normalised images (B, 3, H, W) to the head's raw tensors."""
        return self.head(self.pyramid(images), (images.shape[2], images.shape[3]))

    def losses(self, raw: PanopticRaw, targets: Sequence[PanopticTarget]) -> dict[str, Tensor]:
        """Named terms whose sum is minimised."""
        return self.head.losses(raw, targets)

    @property
    def raw(self) -> Any:
        """The type of what `forward` gives in evaluation."""
        return self.head.raw

    def decoding(self, shown: float) -> dict[str, Any]:
        """What a program needs to decode the raw tensors."""
        things = {f"things_{name}": shape for name, shape in OUTPUTS.items()}
        return {
            "kind": "panoptic",
            "outputs": {**things, "stuff": "(B, 1 + stuff, row, column)"},
            "score": KEPT,
            "double": DOUBLE,
            "overlap": 0.5,
            "stuff_share": STUFF,
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

    def decode(
        self, raw: PanopticRaw, frames: Sequence[Frame], score: float | None = None, stuff: float = STUFF
    ) -> list[PanopticMap]:
        """The segments of each image that its frame describes.

        Things are those of at least `score`, by default `KEPT`; kinds of stuff that cover less than the share `stuff`
        of the image are left out.
        """
        found = self.head.find(raw, KEPT if score is None else score)
        return [self._map(*image, stuff) for image in zip(found, raw.stuff, frames, strict=True)]

    def _map(self, found: Found, logits: Tensor, frame: Frame, stuff: float) -> PanopticMap:
        boxes = frame.to_image(found.boxes.float().cpu())
        scores, labels = found.scores.float().cpu(), found.labels.cpu()
        seen = nms(boxes, scores, DOUBLE)  # the surest first
        seen = seen[((boxes[seen, 2:] - boxes[seen, :2]) > 0).all(1)]
        assert found.masks is not None, "Mask R-CNN finds masks"
        masks = paste_masks(found.masks.float().cpu()[seen], boxes[seen], frame.height, frame.width)
        best = label_map(logits, frame.canvas, frame.inner, frame.size).cpu().numpy()
        laid = fuse(masks, best, len(self.stuff), stuff * best.size)
        about: list[tuple[int, float | None]] = [
            (self.things[int(labels[seen[i]])], float(scores[seen[i]])) for i in laid.things
        ]
        about += [(self.stuff[i], None) for i in laid.stuff]
        return panoptic_map(laid.ids, about, self.classes, self.things)


def panoptic_map(
    ids: np.ndarray[Any, np.dtype[np.int32]],
    about: Sequence[tuple[int, float | None]],
    classes: Sequence[str],
    things: Sequence[int],
) -> PanopticMap:
    """The record of a map whose segment 1 + i, if it is there, is of the class and has the score `about[i]`."""
    segments = []
    areas = np.bincount(ids.ravel(), minlength=len(about) + 1)
    for number, (label, score) in enumerate(about, 1):
        if not areas[number]:
            continue
        x1, y1, x2, y2 = map(float, box_of(ids == number))
        segments.append(
            Segment(number, label, classes[label], label in things, score, int(areas[number]), (x1, y1, x2, y2))
        )
    return PanopticMap(ids, tuple(segments))
