"""Semantic FPN (arXiv 1901.02446): all levels of an FPN at stride 4, and their sum classified per pixel."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from featherbone.heads.fpn import FPN
from featherbone.heads.levels import Level
from featherbone.ops.label_maps import upsample

GROUP = 4
"""Channels per group of GroupNorm."""


class SemanticBranch(nn.Module):
    """Logits of `num_classes` classes at the finest of `levels`.

    A level n octaves above the finest one passes n times, the finest itself once, a 3x3 convolution to `dim` channels,
    a norm and ReLU, each followed by bilinear upsampling to twice the size. A map that then differs from the finest
    level's, whose sides are not multiples, is resized to it.
    """

    def __init__(
        self, levels: Sequence[Level], num_classes: int, dim: int, norm: Literal["batch", "group"], dropout: float = 0.0
    ) -> None:
        super().__init__()
        octaves = [level.octave - levels[0].octave for level in levels]
        assert octaves == list(range(len(levels))), "an FPN's levels double their strides"
        self.paths = nn.ModuleList(
            nn.ModuleList(_step(level.channels if i == 0 else dim, dim, norm) for i in range(max(octave, 1)))
            for octave, level in zip(octaves, levels, strict=True)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(dim, num_classes, 1)
        nn.init.normal_(self.classify.weight, std=0.01)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C, h, w) of `levels` to logits (B, K, h, w) of the finest one's size."""
        walked = []
        for level, (x, path) in enumerate(zip(maps, self.paths, strict=True)):
            for step in path:  # type: ignore[attr-defined]  # a ModuleList is iterable
                x = step(x)
                x = F.interpolate(x, scale_factor=2, mode="bilinear") if level else x
            walked.append(upsample(x, maps[0].shape[-2:]))
        return self.classify(self.dropout(sum(walked[1:], walked[0])))


class SemanticFPN(nn.Module):
    """Logits of `num_classes` classes at stride 4, from a pyramid of any strides by an FPN of `dim` channels."""

    image_size: ClassVar[int] = 512

    def __init__(
        self,
        pyramid: Sequence[Level],
        num_classes: int,
        dim: int = 256,
        branch_dim: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.fpn = FPN(pyramid, dim, first=2, last=5)
        self.branch = SemanticBranch(self.fpn.levels, num_classes, branch_dim, "batch", dropout)

    def forward(self, maps: Sequence[Tensor], sizes: Tensor) -> Tensor:
        """Maps (B, C, h, w) of the pyramid to logits (B, K, h, w) at stride 4."""
        return self.branch(self.fpn(maps))


def _step(before: int, dim: int, norm: Literal["batch", "group"]) -> nn.Sequential:
    if norm == "group" and dim % GROUP:
        raise ValueError(f"a semantic branch of {dim} channels is not a multiple of {GROUP}")
    made = nn.BatchNorm2d(dim) if norm == "batch" else nn.GroupNorm(dim // GROUP, dim)
    return nn.Sequential(nn.Conv2d(before, dim, 3, padding=1, bias=False), made, nn.ReLU(inplace=True))
