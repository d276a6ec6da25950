"""timm's model contract, for backbones that compute one level after another."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from timm.models._features import feature_take_indices  # timm keeps no public name for it
from torch import Tensor, nn

from featherbone.errors import BadOption


def require_pool(global_pool: str) -> str:
    """`global_pool`, if it is avg or empty (not pooled). Raises `BadOption` for others."""
    if global_pool not in ("avg", ""):
        raise BadOption(f"global_pool {global_pool!r} is not 'avg', or '' for no pooling")
    return global_pool


class PyramidBackbone(nn.Module):
    """A backbone that computes one state per level, coarser and coarser.

    A family gives `levels`, `as_map` and `forward_head`, keeps its later levels in `stages`, its last norm in
    `norm`, and describes level i in `feature_info[i]`. A state is whatever the family passes from level to level.
    """

    output_fmt: ClassVar[str] = "NHWC"  # of `forward_features`, timm's attribute
    dense_norms: dict[int, float] = {}  # noqa: RUF012  # replaced as a whole, never changed
    """Levels on whose maps a dense head puts a LayerNorm, with its eps."""

    stages: Any
    """The levels' modules, an `nn.ModuleList`; a stem before them is the family's own."""
    norm: nn.Module
    feature_info: list[dict[str, Any]]
    num_classes: int
    num_features: int  # channels of `forward_features`
    head_hidden_size: int  # channels that enter the classifier
    grad_checkpointing: bool = False

    @abstractmethod
    def levels(self, image: Tensor, last: int) -> list[Any]:
        """States of levels 0 to `last` of an image (B, C, H, W)."""

    @abstractmethod
    def as_map(self, state: Any) -> Tensor:
        """The state's feature map (B, H, W, C), without prefix tokens."""

    @abstractmethod
    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The result of `forward_features` to logits (B, K), or to the input of the classifier."""

    @abstractmethod
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier for `num_classes`; 0 removes it. `global_pool=""` removes the pooling, too."""

    def forward_features(self, x: Tensor) -> Tensor:
        """The last state after the last norm, not pooled."""
        return self.norm(self.levels(x, len(self.feature_info) - 1)[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, C, H, W) to logits (B, K)."""
        return self.forward_head(self.forward_features(x))

    @torch.jit.ignore
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Maps of the levels in `indices` (all; an int takes the last n), and the final features unless only maps.

        `norm` puts the last norm on the last map; `output_fmt` is NCHW or NHWC.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt {output_fmt!r} is not NCHW or NHWC")
        count = len(self.feature_info)
        take, deepest = feature_take_indices(count, indices)
        states = self.levels(x, deepest if stop_early or intermediates_only else count - 1)
        final = self.norm(states[-1]) if len(states) == count else states[-1]
        maps = [self.as_map(final if norm and i == count - 1 else states[i]) for i in take]
        if output_fmt == "NCHW":
            maps = [m.permute(0, 3, 1, 2).contiguous() for m in maps]
        return maps if intermediates_only else (final, maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the levels deeper than the deepest of `indices`, and with them the norm and the head; the indices."""
        count = len(self.feature_info)
        take, deepest = feature_take_indices(count, indices)
        dropped = count - 1 - deepest
        self.stages = self.stages[: len(self.stages) - dropped]
        self.feature_info = self.feature_info[: deepest + 1]
        if prune_norm or dropped:
            self.norm = nn.Identity()
        if prune_head or dropped:
            self.num_features = self.head_hidden_size = self.feature_info[-1]["num_chs"]
            self.reset_classifier(0, "")
        return take

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters beyond the 1-D ones that the paper trains without weight decay."""
        return set()
