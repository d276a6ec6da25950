"""XFormer: Lightweight Vision Transformer with Cross Feature Attention (arXiv 2207.07268), a RECONSTRUCTION.

No code was ever published. The paper's totals are given, and this network meets them: 5.5M parameters, 6.3M and 3.8
GMACs under a light YOLOv3 at 320. Widths, depths, the order of layers and all their details are ours.
A hybrid: MobileNetV3 blocks (MV3) shrink the map; in the three coarse stages an XF block lets all positions see each
other by transformer layers with cross feature attention (XFA), whose features, not tokens, are compared: its cost is
linear in the number of positions. Convolutions carry the position, so any H x W works.
"""

import math
from typing import Any, ClassVar

import torch
from timm.layers import DropPath, calculate_drop_path_rates, get_device_dtype, trunc_normal_
from timm.models import checkpoint, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import SqueezeExcitation

from featherbone.backbones.checkpoints import build, unwrap
from featherbone.backbones.published import Published, imagenet_cfg
from featherbone.errors import BadOption
from featherbone.layers.pyramid import PyramidBackbone, require_pool
from featherbone.ops.attention import attention
from featherbone.ops.xfa import cross_feature_attention, unit_length

NUM_HEADS = 4
EPS = 1e-6  # of the length of q and k; float16 can hold it, so a zero feature stays zero and is not 0 / 0
STAGES = (  # channels in and out, MV3 blocks, squeeze-excite, width and number of transformer layers: stages 2 to 5
    (32, 64, 3, False, 0, 0),
    (64, 96, 1, False, 128, 2),
    (96, 128, 1, True, 192, 4),
    (128, 160, 1, True, 224, 3),
)


class ConvNorm(nn.Sequential):
    """Convolution without bias, BatchNorm and, unless `linear`, Hardswish on (B, C, H, W)."""

    def __init__(
        self, in_dim: int, dim: int, kernel: int, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(dim)
        if not linear:
            self.act = nn.Hardswish()


class MV3(nn.Module):
    """MobileNetV3's block: 1x1 to four times the width, depth-wise 3x3, maybe squeeze-excite, 1x1 without activation.

    (B, C, H, W) to (B, D, h, w); the input is added where the shape stays.
    """

    def __init__(self, in_dim: int, dim: int, stride: int = 1, squeeze: bool = False) -> None:
        super().__init__()
        hidden = 4 * in_dim
        self.residual = stride == 1 and in_dim == dim
        self.expand = ConvNorm(in_dim, hidden, 1)
        self.depthwise = ConvNorm(hidden, hidden, 3, stride, groups=hidden)
        self.squeeze = (
            SqueezeExcitation(hidden, hidden // 4, scale_activation=nn.Hardsigmoid) if squeeze else nn.Identity()
        )
        self.project = ConvNorm(hidden, dim, 1, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class Compress(nn.Module):
    """A 1x1 convolution in groups, on tokens of one group each: (B, groups, N, d) to (B, groups, N, m)."""

    def __init__(self, groups: int, in_dim: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, in_dim, dim))
        self.bias = nn.Parameter(torch.empty(groups, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class XFA(nn.Module):
    """Cross feature attention on tokens (B, N, C): proj(lambda_h q~ (k~^T v)), no softmax.

    q~ and k~ are q and k at unit length in each head, compressed to `score_dim` m features (0: not compressed).
    """

    normalize = staticmethod(unit_length)

    def __init__(self, dim: int, num_heads: int, score_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        # the heads of q, then of k
        self.compress = Compress(2 * num_heads, dim // num_heads, score_dim) if score_dim else nn.Identity()
        self.temperature = nn.Parameter(torch.ones(num_heads))
        self.proj = nn.Linear(dim, dim)

    def scores(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Feature scores q~ and k~ (B, heads, N, m) and values (B, heads, N, d)."""
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3 * self.num_heads, c // self.num_heads).transpose(1, 2)
        qk, v = qkv.split([2 * self.num_heads, self.num_heads], dim=1)
        q, k = self.compress(self.normalize(qk, EPS)).chunk(2, dim=1)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        y = cross_feature_attention(*self.scores(x), self.temperature)  # (B, heads, N, d)
        return self.proj(y.transpose(1, 2).reshape(x.shape))


class SoftmaxAttention(nn.Module):
    """The twin to compare XFA with, quadratic in N: proj(softmax(q k^T d^-1/2) v) on tokens (B, N, C)."""

    attention = staticmethod(attention)

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3 * self.num_heads, c // self.num_heads).transpose(1, 2)
        y = self.attention(*qkv.chunk(3, dim=1))
        return self.proj(y.transpose(1, 2).reshape(x.shape))


class TransformerLayer(nn.Module):
    """x + attention(LN x), then x + MLP(LN x), on tokens (B, N, C)."""

    def __init__(self, dim: int, attention: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.Hardswish(), nn.Linear(2 * dim, dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class XFBlock(nn.Module):
    """Transformer layers of width `dim` over all positions of a map (B, C, H, W), between convolutions."""

    grad_checkpointing = False

    def __init__(self, in_dim: int, dim: int, layers: list[TransformerLayer]) -> None:
        super().__init__()
        self.local = ConvNorm(in_dim, in_dim, 3)
        self.expand = nn.Conv2d(in_dim, dim, 1, bias=False)
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim)
        self.project = ConvNorm(dim, in_dim, 1)
        self.merge = ConvNorm(2 * in_dim, in_dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(self.local(x))
        b, d, h, w = y.shape
        tokens = y.flatten(2).transpose(1, 2)  # (B, N, D)
        for layer in self.layers:  # recomputed without the convolutions: their BatchNorm would count a batch twice
            tokens = checkpoint(layer, tokens) if self.grad_checkpointing and self.training else layer(tokens)
        y = self.project(self.norm(tokens).transpose(1, 2).reshape(b, d, h, w))
        return self.merge(torch.cat([x, y], dim=1))


class Head(nn.Module):
    """1x1 convolution, mean over positions, dropout, Linear; without pooling, a map (B, C, H, W) of the same."""

    def __init__(self, in_dim: int, dim: int, drop_rate: float) -> None:
        super().__init__()
        self.conv: nn.Module = ConvNorm(in_dim, dim, 1)
        self.pool, self.drop_rate = True, drop_rate
        self.fc: nn.Module = nn.Identity()

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.conv(x)
        if self.pool:
            x = F.dropout(x.mean((2, 3)), self.drop_rate, self.training)
        if pre_logits:
            return x
        return self.fc(x) if self.pool else self.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class XFormer(PyramidBackbone):
    """Stem (stride 2, with the paper's stage 1), stages 2 to 5 (`stages[0]` to `[3]`) and a head; a RECONSTRUCTION.

    `score_dim` is the m of XFA; None or 0 leaves the scores uncompressed (timm's `create_model` drops arguments that
    are None: pass 0 there). `softmax_attention` replaces XFA by its softmax twin, for which `score_dim` has no effect.
    """

    output_fmt: ClassVar[str] = "NCHW"

    global_pool: str

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        score_dim: int | None = 4,
        softmax_attention: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if score_dim is not None and score_dim < 0:
            raise BadOption(f"score_dim {score_dim} is negative; give the width of a score, or 0 for no compression")

        def attention(dim: int) -> nn.Module:
            return SoftmaxAttention(dim, NUM_HEADS) if softmax_attention else XFA(dim, NUM_HEADS, score_dim or 0)

        self.in_chans, self.drop_rate = in_chans, drop_rate
        self.num_features, self.head_hidden_size = STAGES[-1][1], 640
        self.stem = nn.Sequential(ConvNorm(in_chans, 16, 3, stride=2), MV3(16, 32))
        stages = []
        depths = [stage[-1] for stage in STAGES]
        rates: Any = calculate_drop_path_rates(drop_path_rate, depths, stagewise=True)
        for (in_dim, dim, num_mv3, squeeze, width, _), stage_rates in zip(STAGES, rates, strict=True):
            blocks: list[nn.Module] = [MV3(in_dim, dim, stride=2, squeeze=squeeze)]
            blocks += [MV3(dim, dim) for _ in range(num_mv3 - 1)]
            if width:
                layers = [TransformerLayer(width, attention(width), rate) for rate in stage_rates]
                blocks.append(XFBlock(dim, width, layers))
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.feature_info = [
            dict(num_chs=stage[1], reduction=4 * 2**i, module=f"stages.{i}") for i, stage in enumerate(STAGES)
        ]
        self.norm = nn.Identity()
        self.head = Head(self.num_features, self.head_hidden_size, drop_rate)
        self.reset_classifier(num_classes, global_pool)
        self.apply(init_weights)
        self.to(device=device, dtype=dtype)

    def levels(self, image: Tensor, last: int) -> list[Tensor]:
        """Maps (B, C, h, w) of levels 0 to `last`, which are the paper's stages 2 to 5."""
        x = self.stem(image)
        maps = []
        for stage in self.stages[: last + 1]:
            x = stage(x)
            maps.append(x)
        return maps

    def as_map(self, state: Tensor) -> Tensor:
        return state.permute(0, 2, 3, 1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(x, pre_logits)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.global_pool = require_pool(self.global_pool if global_pool is None else global_pool)
        self.num_classes, self.head.pool = num_classes, bool(self.global_pool)
        fc = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()
        fc.apply(init_weights)
        self.head.fc = fc.to(**get_device_dtype(self)).train(self.training)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        take = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if prune_head or len(self.stages) < len(STAGES):
            self.head.conv = nn.Identity()
        return take

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each transformer layer in the backward pass instead of keeping its activations."""
        for module in self.modules():
            if isinstance(module, XFBlock):
                module.grad_checkpointing = enable
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """The biases that are kept per group, hence not 1-D."""
        return {name for name, _ in self.named_parameters() if name.endswith(".compress.bias")}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of the stem and of the blocks in order of depth, for layer-wise learning rates."""
        by_block = [
            (r"^stages\.(\d+)\.(\d+)\.layers\.(\d+)", None),
            (r"^stages\.(\d+)\.(\d+)\.(?:norm|project|merge)", (99999,)),  # the end of an XF block: with its last layer
            (r"^stages\.(\d+)\.(\d+)", (-1,)),
        ]
        return dict(stem=r"^stem", blocks=r"^stages\.(\d+)" if coarse else by_block)


def init_weights(module: nn.Module) -> None:
    """Linear trunc-normal 0.02, convolutions normal with std sqrt(2 / fan_out), biases 0."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.out_channels * math.prod(module.kernel_size) // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    elif isinstance(module, Compress):
        nn.init.normal_(module.weight, std=math.sqrt(2 / module.weight.shape[-1]))
    if isinstance(module, nn.Linear | nn.Conv2d | Compress) and module.bias is not None:
        nn.init.zeros_(module.bias)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """The weights out of their wrappers; there is no published checkpoint, so all names are ours."""
    return unwrap(state_dict)


default_cfgs = generate_default_cfgs(
    {
        "xformer_small.untrained": imagenet_cfg(
            "Lightweight Vision Transformer with Cross Feature Attention",
            "2207.07268",
            side=256,
            crop_pct=0.9,
            first_conv="stem.0.conv",
            classifier="head.fc",
            notes=("reconstruction: no code or weights were published",),
        )
    }
)

PUBLISHED = {
    "xformer_small": Published(
        params=5.5, gmacs=None, top1=78.5, image_size=256, note="ours is a reconstruction: no code was published"
    )
}


@register_model
def xformer_small(pretrained: bool = False, **kwargs: Any) -> XFormer:
    """XFormer, RECONSTRUCTED without published code: 5.542M parameters, 1.34 GMACs at 224, 1.75 GMACs at 256.

    The paper states 5.5M parameters and 78.5% top-1 of its network; this one has not been trained.
    """
    return build(XFormer, "xformer_small", pretrained, checkpoint_filter_fn, **kwargs)
