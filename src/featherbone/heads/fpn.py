"""Feature pyramid network (arXiv 1612.03144) on a pyramid of any strides."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featherbone.heads.levels import Level, Levels


class FPN(nn.Module):
    """Maps of `dim` channels at octaves `first` to `last` (strides 2^first to 2^last), and `extra` coarser ones.

    1x1 laterals, the coarser one upsampled to the finer map's size and added, then 3x3 convolutions; no norms. Levels
    finer than the backbone's are 2x2 transposed convolutions of the finest merged lateral. The extra ones are maps
    pooled with kernel 1 and stride 2 (`pool`, of Mask R-CNN), or 3x3 convolutions of stride 2, the first on the
    backbone's last map, the next on that, after a ReLU if `relu` (`conv`, of RetinaNet).
    """

    def __init__(
        self,
        pyramid: Sequence[Level],
        dim: int,
        first: int,
        last: int = 5,
        extra: int = 0,
        kind: Literal["pool", "conv"] = "pool",
        *,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.source = Levels(pyramid, first, last, finer=False)
        given = self.source.levels
        self.laterals = nn.ModuleList(nn.Conv2d(level.channels, dim, 1) for level in given)
        self.finer = nn.ModuleList(nn.ConvTranspose2d(dim, dim, 2, 2) for _ in range(self.source.octaves[0] - first))
        self.outputs = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1) for _ in range(first, last + 1))
        self.extra, self.kind, self.relu = extra, kind, relu
        widths = [given[-1].channels, *[dim] * extra]
        made = [nn.Conv2d(width, dim, 3, 2, 1) for width in widths[:extra]] if kind == "conv" else []
        self.coarser = nn.ModuleList(made)
        strides = [given[0].stride / 2**step for step in range(len(self.finer), 0, -1)]
        strides += [level.stride for level in given]
        strides += [strides[-1] * 2**step for step in range(1, extra + 1)]
        self.levels = [Level(dim, stride) for stride in strides]
        """What comes out, finest first."""
        for convolution in (*self.laterals, *self.outputs, *self.coarser):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
            nn.init.zeros_(convolution.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C, h, w) of the pyramid to maps of `levels`."""
        maps = self.source(maps)
        merged = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for i in range(len(merged) - 1, 0, -1):
            merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=merged[i - 1].shape[-2:], mode="nearest")
        for convolution in self.finer:
            merged.insert(0, convolution(merged[0]))
        out = [convolution(x) for convolution, x in zip(self.outputs, merged, strict=True)]
        for i in range(self.extra):
            if self.kind == "pool":
                out.append(F.max_pool2d(out[-1], 1, 2))
            else:
                x = maps[-1] if i == 0 else out[-1]
                out.append(self.coarser[i](torch.relu(x) if i and self.relu else x))
        return out
