"""Any timm backbone as the pyramid of maps that dense heads take."""

from collections.abc import Sequence
from typing import Any

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from featherbone.heads.levels import Level


class Pyramid(nn.Module):
    """One map for each stride of a backbone, from 4 on, finest first: the deepest map of that stride.

    A backbone may state by `dense_levels` the levels that a dense head takes, and by `dense_norms` the eps of a
    LayerNorm after some of them. Layers after the last map are removed.
    """

    backbone: Any
    """A timm model with `forward_intermediates`."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        info = _feature_info(backbone)
        allowed = getattr(backbone, "dense_levels", range(len(info)))
        by_octave: dict[int, tuple[int, Level]] = {}
        for index in allowed:
            level = Level(info[index]["num_chs"], info[index]["reduction"])
            if level.octave >= 2:
                by_octave[level.octave] = index, level
        chosen = [by_octave[octave] for octave in sorted(by_octave)]
        self.levels = [level for _, level in chosen]
        self.indices = [index for index, _ in chosen]
        backbone.prune_intermediate_layers(self.indices, prune_norm=True, prune_head=True)
        norms: dict[int, float] = getattr(backbone, "dense_norms", {})
        self.norms = nn.ModuleList(
            LayerNorm2d(level.channels, eps=norms[index]) if index in norms else nn.Identity()
            for index, level in chosen
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) to maps (B, C, h, w) of `levels`."""
        maps = self.backbone.forward_intermediates(
            images, indices=self.indices, intermediates_only=True, output_fmt="NCHW"
        )
        return [norm(x) for norm, x in zip(self.norms, maps, strict=True)]


def _feature_info(backbone: Any) -> Sequence[dict[str, Any]]:
    info = backbone.feature_info
    return info if isinstance(info, list | tuple) else info.info
