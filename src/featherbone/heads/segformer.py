"""All-MLP decoder of SegFormer (arXiv 2105.15203): maps projected to one width, concatenated, classified per pixel."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featherbone.heads.levels import Level, Levels


class SegFormer(nn.Module):
    """Logits of `num_classes` classes at stride 4, from a pyramid of any strides.

    Each map of strides 4 to 32 is projected to `dim` channels and resized to the finest one; their concatenation
    passes a 1x1 convolution, BatchNorm and ReLU, and a 1x1 classifier.
    """

    image_size: ClassVar[int] = 512

    def __init__(self, pyramid: Sequence[Level], num_classes: int, dim: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.source = Levels(pyramid, first=2, last=5)
        self.projections = nn.ModuleList(nn.Conv2d(level.channels, dim, 1) for level in self.source.levels)
        self.mix = nn.Sequential(
            nn.Conv2d(len(self.projections) * dim, dim, 1, bias=False), nn.BatchNorm2d(dim), nn.ReLU(inplace=True)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(dim, num_classes, 1)
        nn.init.normal_(self.classify.weight, std=0.01)

    def forward(self, maps: Sequence[Tensor], sizes: Tensor) -> Tensor:
        """Maps (B, C, h, w) of the pyramid to logits (B, K, h, w) of the finest one's size."""
        maps = self.source(maps)
        projected = [projection(x) for projection, x in zip(self.projections, maps, strict=True)]
        sized = [F.interpolate(x, size=projected[0].shape[-2:], mode="bilinear") for x in projected]
        return self.classify(self.dropout(self.mix(torch.cat(sized[::-1], 1))))
