"""LVT: Lite Vision Transformer with Enhanced Self-Attention (CVPR 2022, arXiv 2112.10809).

Four stages of pre-norm transformer blocks on maps. Stage 1 mixes low-level features by convolutional self-attention
(CSA): the attention of a 3x3 window weighs values that each tap sees through a separate matrix. Stages 2 to 4 see
several scales at once by recursive atrous self-attention (RASA): one depth-wise kernel at three dilations makes the
query, and the block is applied to its result. `lvt_cls` ends in two class-attention blocks and an auxiliary head.
Written from the paper. Differs from the published training: drop path works.
"""

import math
import re
from typing import Any, Literal

import torch
from timm.layers import DropPath, calculate_drop_path_rates, get_device_dtype, trunc_normal_
from timm.models import checkpoint, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from featherbone.backbones.checkpoints import build, unwrap
from featherbone.backbones.published import Published, imagenet_cfg
from featherbone.errors import BadOption
from featherbone.layers.pyramid import PyramidBackbone, require_pool
from featherbone.layers.token_labelling import Box, TokenLabels, draw_box, swap_box
from featherbone.ops.atrous import atrous
from featherbone.ops.attention import attention
from featherbone.ops.csa import TAPS, convolutional_self_attention, pool_windows, tap_attention

DILATIONS = (1, 3, 5)
CELL = 8  # positions of stage 1 along one final position
DEPTH, RANDOM_DEPTHS = 2, (1, 2, 3)  # of RASA's recursion: the paper's, and those that training may draw from


def channels_first(x: Tensor) -> Tensor:
    """(B, H, W, C) seen as (B, C, H, W)."""
    return x.permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) seen as (B, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def limit_sides(x: Tensor, side: int) -> Tensor:
    """Means over the blocks of maps (B, C, H, W) that leave at most `side` rows and columns; a rest is cut off."""
    block = [-(-length // side) for length in x.shape[2:]]
    return x if block == [1, 1] else F.avg_pool2d(x, block)


class Pointwise(nn.Linear):
    """A Linear over the channels of maps (B, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        return channels_first(super().forward(channels_last(input)))


class PatchEmbed(nn.Module):
    """A strided convolution, then LayerNorm: (B, C, H, W) to (B, h, w, D)."""

    def __init__(self, in_chans: int, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.proj(x)
        b, c, h, w = maps.shape
        return self.norm(maps.flatten(2).transpose(1, 2)).reshape(b, h, w, c)  # as tokens: OpenVINO's norm is faster


class CSA(nn.Module):
    """Convolutional self-attention on a map (B, H, W, C), Sec. 3.1."""

    pool = staticmethod(pool_windows)
    attend_taps = staticmethod(tap_attention)
    mix = staticmethod(convolutional_self_attention)

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.attention = nn.Linear(dim, TAPS * TAPS * num_heads)
        self.weight = nn.Parameter(torch.empty(TAPS, dim, dim))  # W_j, one matrix (out, in) per tap
        self.proj = nn.Linear(dim, dim)

    def attend(self, x: Tensor) -> Tensor:
        """A (B, h, w, heads, 81): for each output tap i of a window, a distribution over its input taps j."""
        return self.attend_taps(self.pool(x), self.attention.weight, self.attention.bias, self.num_heads, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.mix(x, self.attend(x), self.weight))


class RASA(nn.Module):
    """Recursive atrous self-attention on a map (B, H, W, C), Sec. 3.2.

    `reduction` r shrinks keys and values by an r x r convolution; rows and columns beyond a multiple of r are cut off.
    `recursion` is the depth where a call states none; the weights are the same at any depth. With `key_side`, keys and
    values are averaged in blocks to at most that many rows and columns, so that the cost is linear in the positions.
    """

    convolve = staticmethod(atrous)
    attention = staticmethod(attention)

    def __init__(self, dim: int, num_heads: int, reduction: int, recursion: int, key_side: int | None = None) -> None:
        super().__init__()
        self.num_heads, self.recursion, self.key_side = num_heads, recursion, key_side
        self.q = Pointwise(dim, dim, bias=False)
        self.atrous = nn.Parameter(torch.empty(dim, 1, 3, 3))  # one kernel for all dilations
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.reduce: nn.Module = nn.Identity()
        self.norm: nn.Module = nn.Identity()
        if reduction > 1:
            self.reduce = nn.Conv2d(dim, dim, reduction, reduction)
            self.norm = nn.LayerNorm(dim)
        self.proj = nn.Linear(dim, dim)
        self.act = nn.SiLU()

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query (B, heads, N, d), key and value (B, heads, n, d)."""
        b, _, _, c = x.shape
        maps = channels_first(x)
        q = self.q(maps)
        one, three, five = (F.silu(self.convolve(q, self.atrous, r)) for r in DILATIONS)
        q = (one + three + five).reshape(b, self.num_heads, c // self.num_heads, -1).transpose(2, 3)
        reduced = self.reduce(maps) if self.key_side is None else limit_sides(self.reduce(maps), self.key_side)
        kv = self.kv(self.norm(channels_last(reduced)))
        k, v = kv.reshape(b, -1, 2 * self.num_heads, c // self.num_heads).transpose(1, 2).chunk(2, dim=1)
        return q, k, v

    def attend(self, x: Tensor) -> Tensor:
        """f(x) = SiLU(proj(softmax(q k^T d^-1/2) v)), Eq. 6."""
        y = self.attention(*self.project(x))  # (B, heads, N, d)
        return self.act(self.proj(y.transpose(1, 2).reshape(x.shape)))

    def forward(self, x: Tensor, depth: int | None = None) -> Tensor:
        y = self.attend(x)
        for _ in range((depth or self.recursion) - 1):
            x = x + y
            y = self.attend(x)
        return y


class Mlp(nn.Module):
    """Linear, [depth-wise 3x3,] GELU, Linear on a map (B, H, W, C); without convolution in `parts` of rows.

    Parts need less memory: their hidden maps are not held at the same time.
    """

    parts = 1

    def __init__(self, dim: int, hidden: int, depthwise: bool) -> None:
        super().__init__()
        linear = Pointwise if depthwise else nn.Linear
        self.fc1 = linear(dim, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden) if depthwise else None
        self.act = nn.GELU()
        self.fc2 = linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.depthwise is not None:
            maps = self.depthwise(self.fc1(channels_first(x)))
            return channels_last(self.fc2(self.act(maps)))
        if self.parts > 1:
            return torch.cat([self.fc2(self.act(self.fc1(part))) for part in x.chunk(self.parts, dim=1)], dim=1)
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); `depth` is that of RASA, by default the module's."""

    def __init__(self, dim: int, attention: nn.Module, mlp: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, *depth: int) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), *depth))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """Patch embedding (B, C, H, W) to (B, h, w, D), where `box` is mixed in; then blocks, `recompute` or not.

    `depth` is passed to the blocks.
    """

    def __init__(self, embed: PatchEmbed, blocks: list[Block]) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, recompute: bool, *depth: int, box: Box | None = None) -> Tensor:
        x = self.embed(x)
        if box is not None:
            x = swap_box(x, box, cell=CELL)
        for block in self.blocks:
            x = checkpoint(block, x, *depth) if recompute else block(x, *depth)
        return x


class ClassBlock(nn.Module):
    """Class attention: only the class token (B, 1, C) is updated, from itself and the tokens (B, N, C) of the map."""

    attention = staticmethod(attention)

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(dim)
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, dim * mlp_ratio, depthwise=False)

    def forward(self, cls: Tensor, tokens: Tensor) -> Tensor:
        b, _, c = cls.shape
        n = self.norm1(torch.cat([cls, tokens], dim=1))
        q = self.q(n[:, :1]).reshape(b, 1, self.num_heads, -1).transpose(1, 2)
        k, v = self.kv(n).reshape(b, -1, 2 * self.num_heads, c // self.num_heads).transpose(1, 2).chunk(2, dim=1)
        cls = cls + self.proj(self.attention(q, k, v).transpose(1, 2).reshape(b, 1, c))
        return cls + self.mlp(self.norm2(cls))


class MeanHead(nn.Module):
    """Mean over positions, dropout, Linear; without pooling, the map as it is."""

    def __init__(self, dim: int, num_classes: int, global_pool: str, drop_rate: float) -> None:
        super().__init__()
        self.pool, self.drop_rate = bool(global_pool), drop_rate
        self.fc = nn.Linear(dim, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if self.pool:
            x = F.dropout(x.mean((1, 2)), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)


class ClassAttentionHead(nn.Module):
    """A class token, two class-attention blocks, LayerNorm on all, `fc` on the token, `aux_fc` on every position."""

    def __init__(self, dim: int, num_classes: int, drop_rate: float) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.blocks = nn.ModuleList(ClassBlock(dim, num_heads=8, mlp_ratio=4) for _ in range(2))
        self.norm = nn.LayerNorm(dim)
        self.fc = nn.Linear(dim, num_classes) if num_classes else nn.Identity()
        self.aux_fc = nn.Linear(dim, num_classes) if num_classes else nn.Identity()
        trunc_normal_(self.cls_token, std=0.02)

    def pool(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the class token before its norm (B, 1, C)."""
        tokens = x.flatten(1, 2)
        cls = self.cls_token.expand(x.shape[0], -1, -1)
        for block in self.blocks:
            cls = block(cls, tokens)
        return cls

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (B, K) and auxiliary logits (B, H, W, K)."""
        cls = F.dropout(self.norm(self.pool(x))[:, 0], self.drop_rate, self.training)
        return self.fc(cls), self.aux_fc(self.norm(x))

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if pre_logits or isinstance(self.fc, nn.Identity):
            return F.dropout(self.norm(self.pool(x))[:, 0], self.drop_rate, self.training)
        logits, aux_logits = self.both(x)
        return logits + 0.5 * aux_logits.amax((1, 2))


class LVT(PyramidBackbone):
    """Four stages and a head; `class_attention` chooses the head of the 74.8% model, which pools by attention.

    `recursion` is the depth of every RASA. With "random", a forward in training draws one of `RANDOM_DEPTHS` for the
    whole network, and evaluation has the paper's depth. With `mix_token`, training mixes the images of a batch after
    the first embedding, in cells of one final position, and yields `TokenLabels` (Sec. 4.1). `key_side` bounds the keys
    of every RASA at large inputs; from 7 on, it changes nothing up to 224 px. It is not in the paper.
    """

    dense_norms = dict.fromkeys(range(4), 1e-5)

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        recursion: int | Literal["random"] = DEPTH,
        class_attention: bool = False,
        mix_token: bool = False,
        key_side: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if key_side is not None and (not isinstance(key_side, int) or isinstance(key_side, bool) or key_side < 1):
            raise BadOption(f"key_side {key_side!r} is not a number of rows; give a whole number from 1 up, such as 7")
        if mix_token and not class_attention:
            raise ValueError("mix_token needs the auxiliary head of lvt_cls; omit it for lvt")
        depth = DEPTH if recursion == "random" else recursion
        if not isinstance(depth, int) or isinstance(depth, bool) or depth < 1:
            raise BadOption(
                f"recursion {recursion!r} is not a depth of RASA; give a whole number from 1 up, or random to train "
                f"with depths that are drawn from {', '.join(map(str, RANDOM_DEPTHS))}"
            )
        self.random_depth = recursion == "random"
        dims, depths = (64, 64, 160, 256), (2, 2, 2, 2)
        num_heads, mlp_ratios, reductions = (2, 2, 5, 8), (4, 8, 4, 4), (0, 4, 2, 1)
        self.in_chans, self.drop_rate, self.class_attention, self.mix_token = (
            in_chans,
            drop_rate,
            class_attention,
            mix_token,
        )
        self.num_features = self.head_hidden_size = dims[-1]
        stages = []
        for i, rates in enumerate(calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)):
            dim, hidden, convolutional = dims[i], dims[i] * mlp_ratios[i], reductions[i] == 0
            blocks = [
                Block(
                    dim,
                    CSA(dim, num_heads[i])
                    if convolutional
                    else RASA(dim, num_heads[i], reductions[i], depth, key_side),
                    Mlp(dim, hidden, depthwise=not convolutional),
                    rate,
                )
                for rate in rates
            ]
            embed = PatchEmbed(dims[i - 1], dim, 3, 2) if i else PatchEmbed(in_chans, dim, 7, 4)
            stages.append(Stage(embed, blocks))
        self.stages: Any = nn.ModuleList(stages)
        self.feature_info = [dict(num_chs=dim, reduction=4 * 2**i, module=f"stages.{i}") for i, dim in enumerate(dims)]
        self.norm = nn.Identity() if class_attention else nn.LayerNorm(dims[-1])
        self.reset_classifier(num_classes, global_pool)
        self.apply(init_weights)
        self.to(device=device, dtype=dtype)

    def levels(self, image: Tensor, last: int, box: Box | None = None) -> list[Tensor]:
        """Maps (B, h, w, D) of stages 0 to `last`; `box` is mixed in after the first embedding."""
        recompute = self.grad_checkpointing and self.training
        depth = (draw_depth(),) if self.random_depth and self.training else ()
        maps = [self.stages[0](image, recompute, box=box)]
        for stage in self.stages[1 : last + 1]:
            maps.append(stage(channels_first(maps[-1]), recompute, *depth))
        return maps

    def as_map(self, state: Tensor) -> Tensor:
        return state

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(x, pre_logits)

    def forward(self, x: Tensor) -> Any:
        """Logits (B, K), or with `mix_token` in training `TokenLabels`."""
        if not (self.mix_token and self.training):
            return super().forward(x)
        box = draw_box(*(math.ceil(side / (4 * CELL)) for side in x.shape[2:]))
        logits, aux_logits = self.head.both(self.levels(x, last=3, box=box)[-1])
        return TokenLabels(logits, swap_box(aux_logits, box), box)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module | tuple[nn.Module, nn.Module]:
        return (self.head.fc, self.head.aux_fc) if isinstance(self.head, ClassAttentionHead) else self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = require_pool(global_pool)
        head: MeanHead | ClassAttentionHead
        if self.class_attention and self.global_pool:
            head = ClassAttentionHead(self.num_features, num_classes, self.drop_rate).apply(init_weights)
            old = getattr(self, "head", None)
            if isinstance(old, ClassAttentionHead):  # only the two classifiers change
                head.cls_token, head.blocks, head.norm = old.cls_token, old.blocks, old.norm
        else:
            head = MeanHead(self.num_features, num_classes, self.global_pool, self.drop_rate).apply(init_weights)
        self.head: Any = head.to(**get_device_dtype(self)).train(self.training)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return {"head.cls_token"} if isinstance(self.head, ClassAttentionHead) else set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of the stem and of the blocks in order of depth, for layer-wise learning rates."""
        by_block = [
            (r"^stages\.(\d+)\.embed", (-1,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^norm|^head\.(?:cls_token|blocks|norm)", (99999,)),
        ]
        return dict(stem=r"^stages\.0\.embed", blocks=r"^stages\.(\d+)" if coarse else by_block)


def draw_depth() -> int:
    """A depth for one forward, each of `RANDOM_DEPTHS` equally likely, from torch's default generator of the CPU."""
    return RANDOM_DEPTHS[int(torch.randint(len(RANDOM_DEPTHS), (), device="cpu"))]


def init_weights(module: nn.Module) -> None:
    """Linear trunc-normal 0.02, norms 1 and 0, convolutions normal with std sqrt(2 / fan_out), biases 0."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.out_channels * math.prod(module.kernel_size) // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    elif isinstance(module, CSA):
        nn.init.normal_(module.weight, std=math.sqrt(2 / (TAPS * module.weight.shape[-1])))
    elif isinstance(module, RASA):
        nn.init.normal_(module.atrous, std=math.sqrt(2 / TAPS))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


PUBLISHED_NAMES = (  # patterns of the published parameter names, and ours
    (r"^backbone\.(\d+)\.0\.", r"stages.\1.embed."),
    (r"^backbone\.(\d+)\.1\.", r"stages.\1.blocks."),
    (r"\.attn\.attn\.", ".attn.attention."),
    (r"\.attn\.weight\.weight$", ".attn.weight"),
    (r"\.attn\.ds\.weight$", ".attn.atrous"),
    (r"\.attn\.sr\.", ".attn.reduce."),
    (r"\.mlp\.depconv\.", ".mlp.depthwise."),
    (r"^post_network\.(\d+)\.attn\.", r"head.blocks.\1."),
    (r"^post_network\.", "head.blocks."),
    (r"^cls_token$", "head.cls_token"),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
    (r"^aux_head\.", "head.aux_fc."),
)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """A published LVT checkpoint under our names; one of ours is returned unchanged."""
    state_dict = unwrap(state_dict)
    if not any(name.startswith("backbone.") for name in state_dict):
        return state_dict
    ours = {}
    for name, value in state_dict.items():
        for pattern, replacement in PUBLISHED_NAMES:
            name = re.sub(pattern, replacement, name)
        if name.startswith("norm.") and "cls_token" in state_dict:  # one LayerNorm, kept where it is used
            name = f"head.{name}"
        if name.endswith(".attn.weight"):
            value = value.reshape(TAPS, value.shape[1], value.shape[1])  # (9C, C, 1, 1), tap-major
        elif name.endswith(("fc1.weight", "fc2.weight")):
            value = value.flatten(1)  # 1x1 convolutions
        ours[name] = value
    return ours


def _cfg(**kwargs: Any) -> dict[str, Any]:
    own = {"first_conv": "stages.0.embed.proj", "classifier": "head.fc"}
    return imagenet_cfg("Lite Vision Transformer with Enhanced Self-Attention", "2112.10809", **{**own, **kwargs})


default_cfgs = generate_default_cfgs(
    {
        "lvt.untrained": _cfg(),
        "lvt_cls.untrained": _cfg(classifier=("head.fc", "head.aux_fc"), crop_pct=0.96),
    }
)

PUBLISHED = {
    "lvt": Published(params=None, gmacs=None, top1=None, note="backbone of the paper's dense models: 3.4M, 0.9 GMACs"),
    "lvt_cls": Published(params=5.5, gmacs=0.9, top1=74.8),
}


def _create(variant: str, pretrained: bool, **kwargs: Any) -> LVT:
    return build(LVT, variant, pretrained, checkpoint_filter_fn, **kwargs)


@register_model
def lvt(pretrained: bool = False, **kwargs: Any) -> LVT:
    """LVT with a mean-pooled head, 3.687M parameters, 0.86 GMACs at 224; the backbone of the paper's dense models."""
    return _create("lvt", pretrained, **kwargs)


@register_model
def lvt_cls(pretrained: bool = False, **kwargs: Any) -> LVT:
    """LVT with class attention, 5.522M parameters, 0.89 GMACs at 224; 74.8% top-1 in the paper."""
    return _create("lvt_cls", pretrained, **dict(kwargs, class_attention=True))
