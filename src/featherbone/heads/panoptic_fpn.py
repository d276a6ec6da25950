"""Panoptic FPN (arXiv 1901.02446): Mask R-CNN for things and a semantic branch for stuff, on one FPN."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from featherbone.heads.levels import Level
from featherbone.heads.mask_rcnn import MaskDecoder, MaskRCNN, Proposed
from featherbone.heads.pixels import PixelLoss
from featherbone.heads.roi import MaskRaw
from featherbone.heads.semantic_fpn import SemanticBranch
from featherbone.ops.label_maps import PanopticTarget


class PanopticRaw(NamedTuple):
    """Output of `forward`: the raw tensors of Mask R-CNN and of the semantic branch."""

    things: Proposed | MaskRaw
    """The former in training."""
    stuff: Tensor
    """Logits (B, 1 + S, h, w) at stride 4: of any thing, then of each class of stuff."""


class PanopticFPN(nn.Module):
    """Things and stuff from a pyramid of any strides.

    Mask R-CNN of `num_things` classes, with the widths of `MaskRCNN`, and on strides 4 to 32 of its FPN a semantic
    branch of `branch_dim` channels with GroupNorm for `num_stuff` classes and all things as one, whose loss has
    the weight `stuff_weight`.
    """

    image_size: ClassVar[int] = 640
    nms_inside: ClassVar[bool] = True
    raw: ClassVar[Any] = PanopticRaw

    def __init__(
        self,
        pyramid: Sequence[Level],
        num_things: int,
        num_stuff: int,
        dim: int = 256,
        rpn_dim: int | None = None,
        fc_dim: int = 1024,
        mask_dim: int | None = None,
        branch_dim: int = 128,
        *,
        stuff_weight: float = 0.5,
        proposals: int = 1000,
    ) -> None:
        super().__init__()
        self.things = MaskRCNN(pyramid, num_things, dim, rpn_dim, fc_dim, mask_dim, proposals=proposals)
        self.stuff = SemanticBranch(self.things.fpn.levels[:-1], 1 + num_stuff, branch_dim, "group")
        self.stuff_weight = stuff_weight

    def forward(self, maps: Sequence[Tensor], sizes: Tensor, score: float = 0.0) -> PanopticRaw:
        """As of `MaskRCNN`."""
        levels = self.things.fpn(maps)
        return PanopticRaw(self.things.read(levels, sizes, score), self.stuff(levels[:-1]))

    @staticmethod
    def things_decoder(strides: Sequence[float]) -> MaskDecoder:
        """The decoder of the things; `strides` are not used."""
        return MaskDecoder()

    def losses(self, raw: PanopticRaw, targets: Sequence[PanopticTarget]) -> dict[str, Tensor]:
        """The five losses of `MaskRCNN`, and cross-entropy of the semantic branch."""
        assert isinstance(raw.things, Proposed), "the network was evaluating"
        terms = self.things.losses(raw.things, [target.things for target in targets])
        loss = PixelLoss()(raw.stuff, [target.stuff for target in targets])
        return terms | {"stuff": self.stuff_weight * loss["pixel"]}


class LightPanopticFPN(PanopticFPN):
    """LVT's narrower version (arXiv 2112.10809)."""

    def __init__(
        self,
        pyramid: Sequence[Level],
        num_things: int,
        num_stuff: int,
        dim: int = 96,
        rpn_dim: int | None = None,
        fc_dim: int = 160,
        mask_dim: int | None = None,
        branch_dim: int = 48,
        *,
        stuff_weight: float = 0.5,
        proposals: int = 1000,
    ) -> None:
        widths = (dim, rpn_dim, fc_dim, mask_dim, branch_dim)
        super().__init__(pyramid, num_things, num_stuff, *widths, stuff_weight=stuff_weight, proposals=proposals)
