"""Detection and instance segmentation: any timm backbone, as a pyramid, under a head that finds objects."""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from featherbone.data.frames import IN_IMAGE, Frame
from featherbone.ops.boxes import Found, Picked, Target
from featherbone.ops.paste import paste_masks
from featherbone.results import Box, Detections, Instances
from featherbone.tasks.pyramid import Pyramid

SURE = 0.3
"""Least score of an object that is told, where a run has found no better limit on its validation images."""


class DetectionHead(Protocol):
    """What RetinaNet, YOLOv3 and Mask R-CNN have in common."""

    image_size: ClassVar[int]
    """Side of the input that its paper has, or that users expect."""

    def __call__(self, maps: list[Tensor], size: tuple[int, int]) -> Any:
        """Maps (B, C, h, w) of a pyramid and the size of the images they are of, to raw tensors of fixed shapes."""

    def losses(self, raw: Any, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Named terms whose sum is minimised, from what training's `forward` gave."""

    def find(self, raw: Any, score: float | None = None) -> list[Found]:
        """The objects of each image, from what evaluation's `forward` gave; by default above the paper's score."""

    def decoding(self) -> dict[str, Any]:
        """What a program needs to find them."""


class Detector(nn.Module):
    """A pyramid under a head, with the names of what it finds."""

    head: Any
    """A `DetectionHead`."""

    def __init__(self, pyramid: Pyramid, head: nn.Module, classes: Sequence[str]) -> None:
        super().__init__()
        self.pyramid, self.head = pyramid, head
        self.classes = tuple(classes)

    @property
    def backbone(self) -> Any:
        """The timm model."""
        return self.pyramid.backbone

    def forward(self, images: Tensor) -> Any:
        """Normalised images (B, 3, H, W) to the head's raw tensors."""
        return self.head(self.pyramid(images), (images.shape[2], images.shape[3]))

    def losses(self, raw: Any, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Named terms whose sum is minimised."""
        return self.head.losses(raw, targets)

    def decode(self, raw: Any, frames: Sequence[Frame], score: float | None = None) -> list[Detections]:
        """The objects of each image, in pixels of the image that its frame describes.

        Those below `score` are left out; by default the head's own limit, low, as average precision wants it.
        """
        found = found_of(raw, score) if isinstance(raw, Picked) else self.head.find(raw, score)
        return [self._record(*image) for image in zip(found, frames, strict=True)]

    def decoding(self, shown: float) -> dict[str, Any]:
        """What a program needs to decode the raw tensors; objects below `shown` are not told to people."""
        return {**self.head.decoding(), "shown": shown, "image": IN_IMAGE}

    @property
    def raw(self) -> Any:
        """The type of what `forward` gives in evaluation."""
        return self.head.raw

    def _record(self, found: Found, frame: Frame) -> Detections:
        boxes = frame.to_image(found.boxes.float().cpu())
        seen = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1).nonzero()[:, 0]  # the rest lies in the padding
        boxes, labels, scores = boxes[seen], found.labels.cpu()[seen].tolist(), found.scores.cpu()[seen].tolist()
        rows: list[Box] = [(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes.tolist()]
        about = (frame.height, frame.width, tuple(rows), tuple(labels), tuple(self.classes[i] for i in labels))
        if found.masks is None:
            return Detections(*about, tuple(scores))
        masks = paste_masks(found.masks.float().cpu()[seen], boxes, frame.height, frame.width)
        return Instances(*about, tuple(scores), tuple(masks))


def found_of(raw: Picked, score: float | None = None) -> list[Found]:
    """The objects of each image whose score is above `score`, by default 0."""
    images = zip(raw.boxes, raw.labels, raw.scores, strict=True)
    return [Found(*(part[image[2] > (score or 0)] for part in image)) for image in images]
