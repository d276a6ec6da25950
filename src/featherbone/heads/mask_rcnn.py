"""Mask R-CNN (arXiv 1703.06870): a first stage proposes boxes, a second predicts their classes, boxes and masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from featherbone.heads.anchors import AnchorRaw
from featherbone.heads.box_decoder import first_image, picked_objects
from featherbone.heads.fpn import FPN
from featherbone.heads.levels import Level
from featherbone.heads.roi import MaskRaw, RoIHeads
from featherbone.heads.rpn import RPN
from featherbone.ops.boxes import FOUND, Found, Target
from featherbone.ops.paste import PASTE

OUTPUTS = {
    "boxes": "(B, object, 4)",
    "scores": "(B, object)",
    "labels": "(B, object)",
    "masks": "(B, object, row, column)",
}
"""Of an exported file, in the words of `featherbone.json`."""


class Proposed(NamedTuple):
    """Output of `forward` in training: the input of both stages' losses."""

    maps: tuple[Tensor, ...]
    """Of the FPN (B, C, h, w), strides 4 to 64."""
    rpn: AnchorRaw
    proposals: Tensor
    """(B, N, 4), in pixels, unused rows last (see `RPN.propose`); they carry no gradient."""


@dataclass(frozen=True)
class MaskDecoder:
    """Objects from Mask R-CNN's raw tensors, of which NMS and `limit` are part."""

    raw: ClassVar[Any] = MaskRaw

    score: float = 0.05

    def __call__(self, raw: MaskRaw, sizes: Tensor, score: float | None = None) -> list[Found]:
        return picked_objects(raw, self.score if score is None else score)

    def tensors(self, raw: MaskRaw, sizes: Tensor) -> dict[str, Tensor]:
        return first_image(raw)

    def describe(self) -> dict[str, Any]:
        return {"kind": "mask_rcnn", "outputs": OUTPUTS, "score": self.score, **FOUND, **PASTE}


class MaskRCNN(nn.Module):
    """Objects of `num_classes` classes and their masks, from a pyramid of any strides.

    An FPN of `dim` channels, strides 4 to 64, and on it an RPN with a convolution of `rpn_dim` channels, which makes
    `proposals` of each image. They are read from strides 4 to 32 by two layers of `fc_dim`, and the objects found there
    by four convolutions of `mask_dim` channels. By default both are `dim`. Boxes that overlap a higher-scoring one of
    their class by more than `nms` in IoU are dropped; at most `limit` remain.
    """

    image_size: ClassVar[int] = 640
    decoder: ClassVar[type[MaskDecoder]] = MaskDecoder
    nms_inside: ClassVar[bool] = True
    """The network contains NMS, so an exported file takes one image at a time."""

    def __init__(
        self,
        pyramid: Sequence[Level],
        num_classes: int,
        dim: int = 256,
        rpn_dim: int | None = None,
        fc_dim: int = 1024,
        mask_dim: int | None = None,
        *,
        proposals: int = 1000,
        nms: float = 0.5,
        limit: int = 100,
    ) -> None:
        super().__init__()
        self.fpn = FPN(pyramid, dim, first=2, last=5, extra=1, kind="pool")
        self.rpn = RPN(self.fpn.levels, rpn_dim or dim, limit=proposals)
        self.rois = RoIHeads(self.fpn.levels[:-1], num_classes, fc_dim, mask_dim or dim, nms=nms, limit=limit)

    def forward(self, maps: Sequence[Tensor], sizes: Tensor, score: float = 0.0) -> Proposed | MaskRaw:
        """Maps (B, C, h, w) of images of `sizes` (B, 2) to the input of `losses` or, in evaluation, of the decoder.

        Masks are those of objects with a score above `score`.
        """
        return self.read(self.fpn(maps), sizes, score)

    def read(self, levels: Sequence[Tensor], sizes: Tensor, score: float = 0.0) -> Proposed | MaskRaw:
        """The same from the FPN's maps, strides 4 to 64."""
        rpn = self.rpn(levels)
        proposals = self.rpn.propose(rpn, sizes)
        if self.training:
            return Proposed(tuple(levels), rpn, proposals)
        return self.rois(levels[:-1], proposals, sizes, score)

    def losses(self, raw: Proposed, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The five losses of `RPN` and `RoIHeads`, weighted equally; the sampled boxes are drawn at random."""
        return self.rpn.losses(raw.rpn, targets) | self.rois.losses(raw.maps[:-1], raw.proposals, targets)
