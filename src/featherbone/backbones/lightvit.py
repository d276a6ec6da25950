"""LightViT: Towards Light-Weight Convolution-Free Vision Transformers (arXiv 2207.05557).

Three stages of pre-norm transformer blocks on tokens: a few learned global tokens, then the image tokens row by row.
Image tokens attend to each other within unshifted windows. The global tokens aggregate the whole image and broadcast it
to every position. The feed-forward network ends in two gates, one over channels and one over positions (bi-dimensional
attention), which both depend on the mean of all tokens. A convolutional stem replaces the patch embedding.
Written from the paper; the outputs agree with the published code.
"""

import re
from typing import Any, NamedTuple

import torch
from timm.layers import DropPath, get_device_dtype, trunc_normal_
from timm.models import checkpoint, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from featherbone.backbones.checkpoints import build, unwrap
from featherbone.backbones.published import Published, imagenet_cfg
from featherbone.errors import BadOption
from featherbone.layers.pyramid import PyramidBackbone
from featherbone.ops.attention import attention
from featherbone.ops.windows import OpenWindows, Windows, position_bias, skip, window_attention

HEAD_DIM = 32
MLP_RATIOS = (8, 4, 4)
NECK_DIM = 1280


class State(NamedTuple):
    """Tokens (B, T + H*W, C) of one level: T global tokens (none in the stem), then H x W image tokens row by row."""

    tokens: Tensor
    height: int
    width: int

    def split(self) -> tuple[Tensor, Tensor]:
        """Global tokens (B, T, C) and the map (B, H, W, C)."""
        b, n, c = self.tokens.shape
        t = n - self.height * self.width
        return self.tokens[:, :t], self.tokens[:, t:].reshape(b, self.height, self.width, c)

    def with_image(self, tokens: Tensor, height: int, width: int) -> "State":
        """A state with the same global tokens and `tokens` (B, height*width, C) as image tokens."""
        return State(torch.cat([self.split()[0], tokens], dim=1), height, width)


class Embed(nn.Module):
    """The last convolution of the stem and LayerNorm; prepends the global tokens."""

    def __init__(self, in_dim: int, dim: int, num_global_tokens: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_dim, dim, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(dim)
        self.global_tokens = nn.Parameter(torch.empty(1, num_global_tokens, dim))

    def forward(self, state: State) -> State:
        _, image = state.split()
        x = self.proj(image.permute(0, 3, 1, 2))
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        tokens = torch.cat([self.global_tokens.expand(x.shape[0], -1, -1), tokens], dim=1)
        return State(tokens, x.shape[2], x.shape[3])


class Merge(nn.Module):
    """Merge 2x2 neighbours to one token, with a max-pooled residual; odd maps are first padded with zeros."""

    windows: type[Windows] | type[OpenWindows] = Windows
    halve = staticmethod(skip)

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_dim)
        self.reduce = nn.Linear(4 * in_dim, dim, bias=False)
        self.residual = nn.Linear(in_dim, dim, bias=False)
        self.global_norm = nn.LayerNorm(in_dim)
        self.global_proj = nn.Linear(in_dim, dim, bias=False)

    def forward(self, state: State) -> State:
        global_tokens, image = state.split()
        image = self.windows.pad(image, 2)
        _, h, w, _ = image.shape
        pooled = F.max_pool2d(image.permute(0, 3, 1, 2), 2).flatten(2).transpose(1, 2)  # (B, N, C)
        left_top, right_top, left_bottom, right_bottom = self.halve(image)
        merged = torch.cat([left_top, left_bottom, right_top, right_bottom], dim=3).flatten(1, 2)
        image_tokens = self.reduce(self.norm(merged)) + self.residual(pooled)
        tokens = torch.cat([self.global_proj(self.global_norm(global_tokens)), image_tokens], dim=1)
        return State(tokens, h // 2, w // 2)


class Projection(nn.Linear):
    """Queries, keys and values (B, N, 3C) of tokens (B, N, C)."""

    def split(self, tokens: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries (B, t, C) of the global tokens; queries, keys and values (B, N, C) of the image tokens."""
        q, k, v = self(tokens).chunk(3, dim=2)
        return q[:, :t], q[:, t:], k[:, t:], v[:, t:]


class SplitProjection(nn.Module):
    """`Projection` as three Linear layers that share its weights; runtimes copy a tensor when they split it.

    Keys have no bias: it adds the same to all scores of a query, so the softmax does not depend on it.
    """

    def __init__(self, joined: Projection) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(joined.in_features, joined.in_features, device="meta") for _ in range(3))
        parts = zip((self.q, self.k, self.v), joined.weight.chunk(3), joined.bias.chunk(3), strict=True)
        for layer, weight, bias in parts:
            layer.weight, layer.bias = (nn.Parameter(x, requires_grad=False) for x in (weight, bias))
        self.k.register_parameter("bias", None)

    def split(self, tokens: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        image = tokens[:, t:]
        return self.q(tokens[:, :t]), self.q(image), self.k(image), self.v(image)


class Attention(nn.Module):
    """Local window attention and global aggregation and broadcast (Sec. 3.2) on tokens (B, T + H*W, C).

    Local: softmax(q k^T d^-1/2 + B) v inside a window. If `window_size` does not divide the map, the map is padded with
    zero tokens, which are keys like any other. Aggregation: G = softmax(q_g k_x^T d^-1/2) v_x for the global tokens.
    Broadcast: every image token attends to G. The result is proj(concat[G, local + broadcast]).
    """

    windows: type[Windows] | type[OpenWindows] = Windows
    attend_windows = staticmethod(window_attention)
    attend = staticmethod(attention)

    def __init__(self, dim: int, window_size: int) -> None:
        super().__init__()
        self.window_size, self.num_heads = window_size, dim // HEAD_DIM
        self.bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, self.num_heads))
        self.bias: Tensor | None  # B, set once it is constant
        self.register_buffer("bias", None, persistent=False)
        self.qkv: Projection | SplitProjection = Projection(dim, 3 * dim)
        self.kv_global = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def position_bias(self) -> Tensor:
        """B (heads, n, n) of a window of n = window_size^2 tokens."""
        if self.bias is not None:
            return self.bias
        return position_bias(self.bias_table, self.window_size, self.window_size)

    def heads(self, x: Tensor) -> Tensor:
        """Split tokens (B, N, C) into heads (B, heads, N, d)."""
        return x.reshape(*x.shape[:2], self.num_heads, HEAD_DIM).transpose(1, 2)

    def global_attention(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Attention weights (B, heads, T, H*W) of the global tokens on the image; same arguments as `forward`."""
        q, _, k, _ = map(self.heads, self.qkv.split(tokens, tokens.shape[1] - height * width))
        return (q * HEAD_DIM**-0.5 @ k.transpose(2, 3)).softmax(-1)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        state, size = State(tokens, height, width), self.window_size
        global_tokens, image = state.split()
        padded = self.windows.pad(image, size)  # zeros, which become the bias in the projection
        rows, columns = padded.shape[1:3]
        if padded is not image or columns != size:
            tokens = state.with_image(self.windows.cut(padded, size), rows, columns).tokens

        def in_map(x: Tensor) -> Tensor:
            """Tokens (B, rows*columns, C) of windows without the padding, row by row (B, height*width, C)."""
            return self.windows.crop(self.windows.join(x, rows, columns, size), height, width).flatten(1, 2)

        q_global, queries, keys, values = self.qkv.split(tokens, global_tokens.shape[1])
        q, k, v = map(self.heads, (queries, keys, values))
        local = self.attend_windows(q, k, v, self.position_bias())
        if padded is not image:  # the padding must not be keys of the global tokens
            k, v = self.heads(in_map(keys)), self.heads(in_map(values))
        gathered = self.attend(self.heads(q_global), k, v).transpose(1, 2).flatten(2)  # G (B, T, C)
        k, v = map(self.heads, self.kv_global(gathered).chunk(2, dim=2))
        both = (local + self.attend(q, k, v)).transpose(1, 2).flatten(2)
        return self.proj(torch.cat([gathered, in_map(both)], dim=1))


class BiDimensionalAttention(nn.Module):
    """Two gates in (0, 1) on tokens (B, N, C): y * channel * spatial (Sec. 3.3)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.global_reduce = nn.Linear(dim, dim // 4)
        self.local_reduce = nn.Linear(dim, dim // 4)
        self.channel_select = nn.Linear(dim // 4, dim)
        self.spatial_select = nn.Linear(dim // 2, 1)
        self.global_act, self.local_act = nn.GELU(), nn.GELU()

    def gates(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The channel gate (B, 1, C) and the spatial gate (B, N, 1)."""
        z = self.norm(y)
        g = self.global_act(self.global_reduce(z.mean(1, keepdim=True)))
        l = self.local_act(self.local_reduce(z))  # noqa: E741, the paper's letter
        of_local, of_global = self.spatial_select.weight.chunk(2, dim=1)  # acts on concat[l, g] with g repeated
        spatial = F.linear(l, of_local) + F.linear(g, of_global, self.spatial_select.bias)
        return self.channel_select(g).sigmoid(), spatial.sigmoid()

    def forward(self, y: Tensor) -> Tensor:
        channel, spatial = self.gates(y)
        return y * channel * spatial


class Mlp(nn.Module):
    """Linear, GELU, Linear, then the gates with `bidimensional`."""

    def __init__(self, dim: int, hidden: int, bidimensional: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)
        self.gate = BiDimensionalAttention(dim) if bidimensional else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.fc2(self.act(self.fc1(x))))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), on tokens (B, T + H*W, C)."""

    image_only = False
    """Whether to drop the global tokens before the MLP, so its gates depend only on the image tokens."""

    def __init__(self, dim: int, mlp_ratio: int, window_size: int, bidimensional: bool, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, window_size)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_ratio * dim, bidimensional)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), height, width))
        x = x[:, x.shape[1] - height * width :] if self.image_only else x
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """The embedding from the previous level, then the blocks; `recompute` checkpoints each block.

    With `in_column`, for inference, the windows of the map are arranged one below the other before the first block. A
    block does not depend on the order of tokens, except for its windows, and a map as wide as a window needs no
    cutting. Tokens are then reordered once per stage instead of once per block.
    """

    in_column = False

    def __init__(self, embed: Embed | Merge, blocks: list[Block], window_size: int) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.window_size = window_size

    def forward(self, state: State, recompute: bool) -> State:
        state, size = self.embed(state), self.window_size
        tokens, height, width = state
        in_column = self.in_column and height % size == width % size == 0 and width != size
        if in_column:
            image = Windows.cut(state.split()[1], size)
            tokens, height, width = state.with_image(image, height * width // size, size)
        for block in self.blocks:
            tokens = checkpoint(block, tokens, height, width) if recompute else block(tokens, height, width)
        out = State(tokens, state.height, state.width)
        if in_column:
            windows = tokens[:, -height * width :]
            out = out.with_image(Windows.join(windows, *out[1:], size).flatten(1, 2), *out[1:])
        return out


class StateNorm(nn.LayerNorm):
    """LayerNorm of the tokens of a state."""

    def forward(self, state: State) -> State:  # type: ignore[override]
        return state._replace(tokens=super().forward(state.tokens))


class LightViT(PyramidBackbone):
    """A stem and three stages with `dims` channels and `depths` blocks.

    `forward_features` returns tokens (B, T + N, 1280), the `num_global_tokens` first: the neck is applied before
    pooling. Without `bidimensional` the feed-forward networks have no gates. Level 0 is the map of the stem, of
    stride 4. With `image_only`, as in the published detectors, the global tokens are dropped after the last attention.
    """

    output_fmt = "NLC"
    dense_levels = (1, 2, 3)  # detectors use the maps of the stages, not of the stem
    dense_norms = dict.fromkeys(dense_levels, 1e-6)

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        dims: tuple[int, int, int] = (64, 128, 256),
        depths: tuple[int, int, int] = (2, 6, 6),
        num_global_tokens: int = 8,
        window_size: int = 7,
        bidimensional: bool = True,
        image_only: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if min(num_global_tokens, window_size) < 1:
            raise BadOption(f"num_global_tokens {num_global_tokens} and window_size {window_size} must be 1 or more")
        self.in_chans, self.drop_rate = in_chans, drop_rate
        self.num_prefix_tokens = 0 if image_only else num_global_tokens
        self.num_features = self.head_hidden_size = NECK_DIM
        stem_dim = dims[0] // 2
        self.stem = nn.Sequential(
            *conv_bn_gelu(in_chans, stem_dim, stride=2),
            *conv_bn_gelu(stem_dim, stem_dim, groups=stem_dim),
            *conv_bn_gelu(stem_dim, stem_dim, groups=stem_dim),
            *conv_bn_gelu(stem_dim, stem_dim, stride=2, groups=stem_dim),
        )
        stages = []
        drop_rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(list(depths))
        for i, rates in enumerate(drop_rates):
            embed = Merge(dims[i - 1], dims[i]) if i else Embed(stem_dim, dims[0], num_global_tokens)
            blocks = [Block(dims[i], MLP_RATIOS[i], window_size, bidimensional, rate) for rate in rates.tolist()]
            stages.append(Stage(embed, blocks, window_size))
        blocks[-1].image_only = image_only
        self.stages = nn.ModuleList(stages)
        self.feature_info = [dict(num_chs=stem_dim, reduction=4, module="stem")]
        self.feature_info += [dict(num_chs=d, reduction=8 * 2**i, module=f"stages.{i}") for i, d in enumerate(dims)]
        self.norm = StateNorm(dims[-1])
        self.neck: nn.Module = nn.Sequential(nn.Linear(dims[-1], NECK_DIM), nn.LayerNorm(NECK_DIM), nn.GELU())
        self.reset_classifier(num_classes, global_pool)
        self.apply(init_weights)
        self.to(device=device, dtype=dtype)

    def levels(self, image: Tensor, last: int) -> list[State]:
        x = self.stem(image)
        states = [State(x.flatten(2).transpose(1, 2), x.shape[2], x.shape[3])]
        for stage in self.stages[:last]:
            states.append(stage(states[-1], recompute=self.grad_checkpointing and self.training))
        return states

    def as_map(self, state: State) -> Tensor:
        return state.split()[1]

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens (B, T + N, 1280) after the last norm and the neck, global tokens first."""
        return self.neck(self.norm(self.levels(x, last=3)[-1]).tokens)

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
        """As in `PyramidBackbone`; the final features are tokens."""
        result = super().forward_intermediates(x, indices, norm, stop_early, output_fmt, intermediates_only)
        if intermediates_only:
            return result
        tokens, maps = result[0].tokens, result[1]
        stopped = tokens.shape[2] != self.feature_info[-1]["num_chs"]  # all levels differ in width
        return tokens if stopped else self.neck(tokens), maps

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """As in `PyramidBackbone`; the neck is removed with the head."""
        take = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if prune_head or len(self.stages) < len(self.feature_info) - 1:
            self.neck = nn.Identity()
        if not len(self.stages):
            self.num_prefix_tokens = 0  # the stem has no global tokens
        return take

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if self.global_pool:
            x = x.mean(1)
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.head(x)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        if global_pool not in (None, "avg", ""):
            raise BadOption(f"global_pool {global_pool!r} is not 'avg', or '' for tokens without pooling")
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = global_pool
        head = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()
        head.apply(init_weights)
        self.head = head.to(**get_device_dtype(self)).train(self.training)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.endswith(("global_tokens", "bias_table"))}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Name patterns of the stem and the blocks, ordered by depth, for layer-wise learning rates."""
        by_block = [
            (r"^stages\.(\d+)\.embed", (-1,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^norm|^neck", (99999,)),
        ]
        return dict(stem=r"^stem|^stages\.0\.embed", blocks=r"^stages\.(\d+)" if coarse else by_block)


def conv_bn_gelu(in_dim: int, dim: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A 3x3 convolution without bias, BatchNorm, GELU."""
    conv = nn.Conv2d(in_dim, dim, 3, stride=stride, padding=1, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(dim), nn.GELU()]


def init_weights(module: nn.Module) -> None:
    """Truncated normal (std 0.02) for Linear, bias tables and global tokens; biases of Linear are 0."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Attention):
        trunc_normal_(module.bias_table, std=0.02)
    elif isinstance(module, Embed):
        trunc_normal_(module.global_tokens, std=0.02)


PUBLISHED_NAMES = (  # patterns of published parameter names, and our names
    (r"^global_token$", "stages.0.embed.global_tokens"),
    (r"^patch_embed\.stem\.", "stem."),
    (r"^patch_embed\.", "stages.0.embed."),
    (r"^stages\.([12])\.0\.norm2\.", r"stages.\1.embed.global_norm."),
    (r"^stages\.([12])\.0\.proj\.", r"stages.\1.embed.global_proj."),
    (r"^stages\.([12])\.0\.res_proj\.", r"stages.\1.embed.residual."),
    (r"^stages\.([12])\.0\.reduction\.", r"stages.\1.embed.reduce."),
    (r"^stages\.([12])\.0\.norm\.", r"stages.\1.embed.norm."),
    (r"^stages\.0\.(\d+)\.", r"stages.0.blocks.\1."),
    (r"^stages\.([12])\.(\d+)\.", lambda found: f"stages.{found[1]}.blocks.{int(found[2]) - 1}."),
    (r"\.relative_position_bias_table$", ".bias_table"),
    (r"\.mlp\.attn\.", ".mlp.gate."),
)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Rename the parameters of a published LightViT checkpoint; one with our names is returned unchanged."""
    state_dict = unwrap(state_dict)
    if "global_token" not in state_dict:
        return state_dict
    ours = {}
    for name, value in state_dict.items():
        for pattern, replacement in PUBLISHED_NAMES:
            name = re.sub(pattern, replacement, name)
        if not name.endswith(".relative_position_index"):  # follows from the window size
            ours[name] = value
    return ours


def _cfg(**kwargs: Any) -> dict[str, Any]:
    own = {
        "first_conv": "stem.0",
        "classifier": "head",
        "license": "apache-2.0",
        "origin_url": "https://github.com/hunto/LightViT",
    }
    return imagenet_cfg(
        "LightViT: Towards Light-Weight Convolution-Free Vision Transformers", "2207.05557", **{**own, **kwargs}
    )


default_cfgs = generate_default_cfgs(
    {
        "lightvit_tiny.untrained": _cfg(),
        "lightvit_small.untrained": _cfg(),
        "lightvit_base.untrained": _cfg(),
    }
)

PUBLISHED = {
    "lightvit_tiny": Published(params=9.4, gmacs=0.7, top1=78.7),
    "lightvit_small": Published(params=19.2, gmacs=1.7, top1=80.9),
    "lightvit_base": Published(params=35.2, gmacs=3.9, top1=82.1),
}


def _create(variant: str, pretrained: bool, **kwargs: Any) -> LightViT:
    return build(LightViT, variant, pretrained, checkpoint_filter_fn, **kwargs)


@register_model
def lightvit_tiny(pretrained: bool = False, **kwargs: Any) -> LightViT:
    """LightViT-T, 9.378M parameters, 0.77 GMACs at 224; 78.7% top-1 in the paper."""
    size = dict(dims=(64, 128, 256), depths=(2, 6, 6), num_global_tokens=8)
    return _create("lightvit_tiny", pretrained, **dict(size, **kwargs))


@register_model
def lightvit_small(pretrained: bool = False, **kwargs: Any) -> LightViT:
    """LightViT-S, 19.200M parameters, 1.83 GMACs at 224; 80.9% top-1 in the paper."""
    size = dict(dims=(96, 192, 384), depths=(2, 6, 6), num_global_tokens=16)
    return _create("lightvit_small", pretrained, **dict(size, **kwargs))


@register_model
def lightvit_base(pretrained: bool = False, **kwargs: Any) -> LightViT:
    """LightViT-B, 35.196M parameters, 4.11 GMACs at 224; 82.1% top-1 in the paper."""
    size = dict(dims=(128, 256, 512), depths=(3, 8, 6), num_global_tokens=24)
    return _create("lightvit_base", pretrained, **dict(size, **kwargs))
