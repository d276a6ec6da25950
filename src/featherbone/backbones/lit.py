"""LIT: Less is More, pay Less attention in vIsion Transformers (AAAI 2022, arXiv 2105.14217).

Early layers of a pyramid transformer attend locally in any case, so stages 1 and 2 have no attention: their blocks
are MLPs. Stages 3 and 4 attend globally. Between stages, deformable token merging (DTM) samples
the 2x2 positions that become one at learned offsets. LIT-Ti adds learned position embeddings and
classifies a class token; the others add a relative position bias to the scores and classify the mean.
Written from the paper. Differs from the published code in that any image size from 32 pixels works: embeddings and
bias tables are resized. `positions` without `class_token`, `table_size` and `dense_norms` are what the published
detectors and segmentation models differ by from the classifiers.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from timm.layers import DropPath, get_device_dtype, trunc_normal_
from timm.models import checkpoint, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from featherbone.backbones.checkpoints import build, unwrap
from featherbone.backbones.published import CLASSIFIERS, Published, imagenet_cfg
from featherbone.errors import BadCheckpoint, BadOption
from featherbone.layers.pyramid import PyramidBackbone
from featherbone.ops.attention import attention
from featherbone.ops.deform import TAPS, deformable_merge
from featherbone.ops.windows import OpenWindows, Windows

OFFSET_RATE = 0.01  # of the learning rate, for the weights that make the offsets


class State(NamedTuple):
    """Tokens (B, P + H*W, C): P class tokens (0 or 1), then the positions row by row."""

    tokens: Tensor
    height: int
    width: int
    num_prefix: int

    def map(self) -> Tensor:
        """The positions, (B, H, W, C)."""
        return self.tokens[:, self.num_prefix :].unflatten(1, (self.height, self.width))


def resize_grid(grid: Tensor, height: int, width: int, mode: str) -> Tensor:
    """(C, h, w) to (C, height, width), corners not aligned; the grid itself where it has that size."""
    return grid if grid.shape[1:] == (height, width) else resize_grid_open(grid, height, width, mode)


def resize_grid_open(grid: Tensor, height: int, width: int, mode: str) -> Tensor:
    """The same for graphs in which height and width stay open."""
    return F.interpolate(grid[None], size=(height, width), mode=mode, align_corners=False)[0]


class LearnedGrid(nn.Module):
    """A learned map (C, h, w), resized on demand; `mode` is bilinear or bicubic."""

    resize = staticmethod(resize_grid)

    def __init__(self, channels: int, height: int, width: int, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.weight = nn.Parameter(torch.empty(channels, height, width))

    def forward(self, height: int, width: int) -> Tensor:
        """The map at a size, (C, height, width)."""
        return self.resize(self.weight, height, width, self.mode)

    def set_size(self, height: int, width: int) -> None:
        """Replace the weight by its map at a size."""
        with torch.no_grad():
            resized = resize_grid(self.weight, height, width, self.mode).clone()
        self.weight = nn.Parameter(resized, requires_grad=self.weight.requires_grad)


class PositionBias(LearnedGrid):
    """One table (heads, 2H - 1, 2W - 1) of score biases by the distance of key and query."""

    def __init__(self, num_heads: int, side: int) -> None:
        super().__init__(num_heads, 2 * side - 1, 2 * side - 1, "bicubic")

    def forward(self, height: int, width: int) -> Tensor:
        """B (heads, H*W, H*W) of queries (y, x), keys (y', x'): row (y - y' + H - 1)(2W - 1) + (x - x' + W - 1)."""
        table = super().forward(2 * height - 1, 2 * width - 1)
        y, x = (torch.arange(side, device=table.device) for side in (height, width))
        row = y[:, None] - y + height - 1  # (H, H)
        column = x[:, None] - x + width - 1  # (W, W)
        # in one step: in two, rows then columns, it could not be exported at open sizes
        index = row[:, None, :, None] * (2 * width - 1) + column[None, :, None, :]  # (H, W, H, W)
        count = height * width
        return table.flatten(1).index_select(1, index.flatten()).reshape(-1, count, count)


class ConstantBias(nn.Module):
    """The bias of the one size whose table the given bias holds."""

    def __init__(self, bias: PositionBias) -> None:
        super().__init__()
        height, width = ((side + 1) // 2 for side in bias.weight.shape[1:])
        self.register_buffer("bias", bias(height, width).detach())

    def forward(self, height: int, width: int) -> Tensor:
        return self.bias  # type: ignore[return-value]


class PositionEmbed(nn.Module):
    """Adds learned embeddings to a map (B, H, W, C), tokens (B, P + H*W, C); a class token has a separate one."""

    def __init__(self, dim: int, side: int, class_token: bool) -> None:
        super().__init__()
        self.grid = LearnedGrid(dim, side, side, "bilinear")
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim)) if class_token else None
        self.cls_position = nn.Parameter(torch.empty(1, 1, dim)) if class_token else None

    def forward(self, x: Tensor) -> Tensor:
        b, height, width, _ = x.shape
        tokens = (x + self.grid(height, width).permute(1, 2, 0)).flatten(1, 2)
        if self.cls_token is None or self.cls_position is None:
            return tokens
        return torch.cat([(self.cls_token + self.cls_position).expand(b, -1, -1), tokens], dim=1)


class PatchEmbed(nn.Module):
    """A 4x4 convolution of stride 4, then LayerNorm: image (B, C, H, W) to (B, h, w, D).

    With `pad`, zeros are appended right and below to sides that are no multiples of 4; else the rest is cut.
    """

    windows: type[Windows] | type[OpenWindows] = Windows

    def __init__(self, in_chans: int, dim: int, pad: bool = False) -> None:
        super().__init__()
        self.pad = pad
        self.proj = nn.Conv2d(in_chans, dim, 4, 4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.pad:
            x = self.windows.pad(x.permute(0, 2, 3, 1), 4).permute(0, 3, 1, 2)
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class DTM(nn.Module):
    """Deformable token merging, Sec. 3.2: (B, H, W, C) to (B, H // 2, W // 2, D).

    Without `deformable` the taps stay in place: a plain 2x2 convolution.
    """

    merge = staticmethod(deformable_merge)

    def __init__(self, in_dim: int, dim: int, deformable: bool) -> None:
        super().__init__()
        self.offset = nn.Conv2d(in_dim, 2 * TAPS, 2, 2) if deformable else None
        self.conv = nn.Conv2d(in_dim, dim, 2, 2)
        self.norm: nn.Module = nn.BatchNorm2d(dim)

    def offsets(self, x: Tensor) -> Tensor:
        """Learned (dy, dx) of the four taps, (B, 8, h, w) in positions of x; see `ops.deform.sampling_points`."""
        if self.offset is None:
            raise BadOption("this network merges tokens by a plain convolution; build it with deformable=True")
        return self.offset(x.permute(0, 3, 1, 2).contiguous())  # the references' layout: rounding here moves the taps

    def forward(self, x: Tensor) -> Tensor:
        if self.offset is None:
            y = self.norm(self.conv(x.permute(0, 3, 1, 2).contiguous())).permute(0, 2, 3, 1).contiguous()
        else:
            y = self.merge(x, self.offsets(x), self.conv.weight, self.conv.bias)
            rows = y.flatten(0, 2)[:, :, None, None]  # (B*h*w, D, 1, 1): a layout that an export need not guess
            y = self.norm(rows).reshape(y.shape)
        return F.gelu(y)


class Attention(nn.Module):
    """Global multi-head attention on tokens (B, N, C), with a position bias where there is a table for it."""

    attention = staticmethod(attention)

    def __init__(self, dim: int, num_heads: int, bias: PositionBias | None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.bias: nn.Module | None = bias
        self.proj = nn.Linear(dim, dim)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value (B, heads, N, d)."""
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3 * self.num_heads, c // self.num_heads)
        q, k, v = qkv.transpose(1, 2).chunk(3, dim=1)
        return q, k, v

    def position_bias(self, height: int, width: int) -> Tensor | None:
        """B (1, heads, N, N), or None."""
        return None if self.bias is None else self.bias(height, width)[None]

    def maps(self, q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
        """softmax(q k^T d^-1/2 + B), (B, heads, N, N)."""
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        return (scores if bias is None else scores + bias).softmax(-1)

    def attend(self, x: Tensor, height: int, width: int) -> Tensor:
        """The attention maps (B, heads, N, N) of tokens x, in each row the weights of one query."""
        q, k, _ = self.project(x)
        return self.maps(q, k, self.position_bias(height, width))

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        q, k, v = self.project(x)
        y = self.attention(q, k, v, self.position_bias(height, width))
        return self.proj(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """[x + attention(norm(x)), then] x + mlp(norm(x)), on tokens (B, N, C)."""

    def __init__(self, dim: int, attention: Attention | None, hidden: int, eps: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps) if attention else None
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        if self.attn is not None and self.norm1 is not None:
            x = x + self.drop_path(self.attn(self.norm1(x), height, width))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """From the image, or the map of the stage before, to tokens; then blocks; `recompute` checkpoints each of them."""

    def __init__(self, embed: PatchEmbed | DTM, positions: PositionEmbed | None, blocks: list[Block]) -> None:
        super().__init__()
        self.embed = embed
        self.positions = positions
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, recompute: bool) -> State:
        x = self.embed(x)
        height, width = x.shape[1:3]
        tokens = x.flatten(1, 2) if self.positions is None else self.positions(x)
        for block in self.blocks:
            tokens = checkpoint(block, tokens, height, width) if recompute else block(tokens, height, width)
        has_class_token = self.positions is not None and self.positions.cls_token is not None
        return State(tokens, height, width, num_prefix=int(has_class_token))


class StateNorm(nn.LayerNorm):
    """LayerNorm on the tokens of a state."""

    def forward(self, state: State) -> State:  # type: ignore[override]
        return state._replace(tokens=super().forward(state.tokens))


class LIT(PyramidBackbone):
    """Four stages `dims` wide and `depths` blocks deep, attention of `head_dim` channels a head in `attention_stages`.

    LIT-Ti has `positions`, embeddings in every stage, and a `class_token` in the last; `forward_features` then gives
    tokens (B, 1 + N, C), without a class token a map (B, h, w, C). Where there are no embeddings, attention has
    position biases, and images are padded to multiples of 4. Both are trained at `table_size` pixels a side.
    `dense_norms` are the levels on whose maps a dense head puts a LayerNorm, by default all but the first where there
    are biases, else none. `global_pool` is "avg" (the positions), "token" (with a class token) or "". Without
    `deformable`, tokens merge by a plain convolution. The papers' drop path is 0.1, 0.2, 0.3 and 0.5 for
    Ti, S, M and B; it belongs to the recipe, so here it is 0.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        dims: tuple[int, int, int, int] = (96, 192, 384, 768),
        depths: tuple[int, int, int, int] = (2, 2, 6, 2),
        head_dim: int = 32,
        mlp_ratios: tuple[int, int, int, int] = (4, 4, 4, 4),
        eps: float = 1e-5,
        class_token: bool = False,
        positions: bool | None = None,
        table_size: int = 224,
        dense_norms: Sequence[int] | None = None,
        attention_stages: tuple[int, ...] = (2, 3),
        deformable: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not set(attention_stages) <= set(range(4)):
            raise BadOption(f"attention_stages {attention_stages}: stages are 0, 1, 2 and 3; omit the others")
        if class_token and positions is False:
            raise BadOption("a class token needs position embeddings; pass class_token=False as well")
        if class_token and 3 not in attention_stages:
            raise BadOption(f"attention_stages {attention_stages}: the class token reads the image in stage 3; add it")
        self.in_chans, self.drop_rate, self.num_prefix_tokens = in_chans, drop_rate, int(class_token)
        self.output_fmt = "NLC" if class_token else "NHWC"  # type: ignore[misc]  # one paper, two kinds of output
        positions = class_token if positions is None else positions
        usual = () if positions else (1, 2, 3)
        self.dense_norms = dict.fromkeys(usual if dense_norms is None else dense_norms, 1e-5)
        self.num_features = self.head_hidden_size = dims[-1]
        stages = []
        drop_rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(list(depths))
        for i, rates in enumerate(drop_rates):
            dim, side = dims[i], table_size // (4 * 2**i)
            blocks = []
            for rate in rates.tolist():
                attention = None
                if i in attention_stages:
                    num_heads = dim // head_dim
                    attention = Attention(dim, num_heads, None if positions else PositionBias(num_heads, side))
                blocks.append(Block(dim, attention, mlp_ratios[i] * dim, eps, rate))
            embed = DTM(dims[i - 1], dim, deformable) if i else PatchEmbed(in_chans, dim, pad=not positions)
            added = PositionEmbed(dim, side, class_token=class_token and i == 3) if positions else None
            stages.append(Stage(embed, added, blocks))
        self.stages = nn.ModuleList(stages)
        self.feature_info = [dict(num_chs=dim, reduction=4 * 2**i, module=f"stages.{i}") for i, dim in enumerate(dims)]
        self.norm = StateNorm(dims[-1], eps=eps)
        self.reset_classifier(num_classes, global_pool)
        self.apply(init_weights)
        self.to(device=device, dtype=dtype)

    def set_input_size(self, img_size: tuple[int, int]) -> None:
        """Resize embeddings and bias tables for good, so that a network exported at `img_size` (H, W) need not."""
        rows, columns = (-(-side // 4) if self.stages[0].embed.pad else side // 4 for side in img_size)
        for i, stage in enumerate(self.stages):
            height, width = rows // 2**i, columns // 2**i
            for module in stage.modules():
                if isinstance(module, PositionBias):
                    module.set_size(2 * height - 1, 2 * width - 1)
                elif isinstance(module, LearnedGrid):
                    module.set_size(height, width)

    def levels(self, image: Tensor, last: int) -> list[State]:
        if min(image.shape[2:]) < 32:
            raise BadOption(f"image of {image.shape[2]}x{image.shape[3]} pixels; enlarge it to 32 or more on each side")
        states: list[State] = []
        for stage in self.stages[: last + 1]:
            x = self.as_map(states[-1]) if states else image
            states.append(stage(x, recompute=self.grad_checkpointing and self.training))
        return states

    def as_map(self, state: State) -> Tensor:
        return state.map()

    def as_features(self, state: State) -> Tensor:
        """Tokens where there is a class token, else the map."""
        return state.tokens if self.num_prefix_tokens else state.map()

    def forward_features(self, x: Tensor) -> Tensor:
        """Map (B, h, w, C) after the last norm, or with a class token, tokens (B, 1 + N, C)."""
        return self.as_features(self.norm(self.levels(x, last=3)[-1]))

    @torch.jit.ignore
    def forward_intermediates(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As in `PyramidBackbone`; the final features are those of `forward_features`."""
        result = super().forward_intermediates(x, *args, **kwargs)
        return (self.as_features(result[0]), result[1]) if isinstance(result, tuple) else result

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """As in `PyramidBackbone`; the class token is removed with the last stage, and maps remain."""
        take = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if len(self.stages) < 4:
            self.num_prefix_tokens, self.output_fmt = 0, "NHWC"  # type: ignore[misc]
        return take

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if self.global_pool == "token":
            x = x[:, 0]
        elif self.global_pool == "avg":
            x = x[:, 1:].mean(1) if self.num_prefix_tokens else x.mean((1, 2))
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.head(x)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        allowed = ("token", "avg", "") if self.num_prefix_tokens else ("avg", "")
        if global_pool is not None:
            if global_pool not in allowed:
                raise BadOption(f"global_pool {global_pool!r} is not one of {', '.join(map(repr, allowed))}")
            self.global_pool = global_pool
        self.num_classes = num_classes
        head = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()
        head.apply(init_weights)
        self.head = head.to(**get_device_dtype(self)).train(self.training)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Embeddings, bias tables and the class token."""
        learned = ("bias.weight", "grid.weight", "cls_token", "cls_position")
        return {name for name, _ in self.named_parameters() if name.endswith(learned)}

    @torch.jit.ignore
    def lr_scales(self) -> dict[str, float]:
        """Patterns of parameter names, and their factor of the learning rate: small for DTM's offsets."""
        return {r"\.offset\.weight$": OFFSET_RATE}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of the stem and of the blocks in order of depth, for layer-wise learning rates."""
        by_block = [
            (r"^stages\.(\d+)\.(?:embed|positions)", (-1,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^norm", (99999,)),
        ]
        return dict(stem=r"^stages\.0\.(?:embed|positions)", blocks=r"^stages\.(\d+)" if coarse else by_block)


def init_weights(module: nn.Module) -> None:
    """Linear, tables, embeddings and class token trunc-normal 0.02, biases of Linear 0, offsets 0, the rest torch's."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, LearnedGrid):
        trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, PositionEmbed) and module.cls_token is not None and module.cls_position is not None:
        trunc_normal_(module.cls_token, std=0.02)
        trunc_normal_(module.cls_position, std=0.02)
    elif isinstance(module, DTM) and module.offset is not None:
        for parameter in module.offset.parameters():
            nn.init.zeros_(parameter)


def _next_stage(found: re.Match[str]) -> str:
    return f"stages.{int(found[1]) + 1}.embed."


def _stage_from_1(found: re.Match[str]) -> str:
    return f"stages.{int(found[1]) - 1}.{'embed' if found[0].startswith('patch') else 'blocks'}."


PUBLISHED_NAMES = (  # patterns of the published parameter names, and ours
    (r"^patch_embed\.", "stages.0.embed."),
    (r"^layers\.(\d+)\.blocks\.", r"stages.\1.blocks."),
    (r"^layers\.(\d+)\.downsample\.", _next_stage),
    (r"^(?:patch_embed|block)([1-4])\.", _stage_from_1),
    (r"\.embed\.dconv\.conv_offset\.", ".embed.offset."),
    (r"\.embed\.dconv\.", ".embed.conv."),
    (r"\.embed\.norm_layer\.", ".embed.norm."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
    (r"\.relative_position_bias_table$", ".bias.weight"),
    (r"^cls_token$", "stages.3.positions.cls_token"),
)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """A published LIT checkpoint under our names, with tables of the model's sizes; one of ours is unchanged."""
    state_dict = unwrap(state_dict)
    if not any(name.startswith("patch_embed") for name in state_dict):
        return state_dict
    grids = {f"{name}.weight": grid for name, grid in model.named_modules() if isinstance(grid, LearnedGrid)}
    ours = {}
    for name, value in state_dict.items():
        if name.endswith(".relative_position_index"):  # follows from the size of the map
            continue
        if name.startswith("pos_embed"):  # (1, [1 +] N, C)
            stage, value = int(name[-1]) - 1, value[0]
            if stage == 3:  # the first row is the class token's
                ours["stages.3.positions.cls_position"], value = value[None, :1], value[1:]
            name = f"stages.{stage}.positions.grid.weight"
        for pattern, replacement in PUBLISHED_NAMES:
            name = re.sub(pattern, replacement, name)
        if name in grids:  # (positions, C), row by row
            height, width = grids[name].weight.shape[1:]
            value = resize_grid(_square(name, value), height, width, grids[name].mode)
        ours[name] = value
    if "cls_token" not in state_dict:  # of a dense model, which leaves its position unused
        ours.pop("stages.3.positions.cls_position", None)
    return ours


def _square(name: str, rows: Tensor) -> Tensor:
    """Rows (side * side, C) of a square grid as (C, side, side)."""
    side = math.isqrt(len(rows))
    if side * side != len(rows):
        raise BadCheckpoint(f"{name} has {len(rows)} rows, not a square grid; resize it before loading")
    return rows.T.unflatten(1, (side, side))


def _cfg(**kwargs: Any) -> dict[str, Any]:
    own = {
        "first_conv": "stages.0.embed.proj",
        "classifier": "head",
        "license": "apache-2.0",
        "origin_url": "https://github.com/ziplab/LIT",
    }
    return imagenet_cfg("Less is More: Pay Less Attention in Vision Transformers", "2105.14217", **{**own, **kwargs})


default_cfgs = generate_default_cfgs(
    {
        "lit_tiny.in1k": _cfg(url=CLASSIFIERS["lit_tiny"].address),
        "lit_small.in1k": _cfg(url=CLASSIFIERS["lit_small"].address),
        "lit_medium.in1k": _cfg(url=CLASSIFIERS["lit_medium"].address),
        "lit_base.in1k": _cfg(url=CLASSIFIERS["lit_base"].address),
    }
)

PUBLISHED = {
    "lit_tiny": Published(params=19, gmacs=3.6, top1=81.1, note="parameters without the classifier, rounded down"),
    "lit_small": Published(params=27, gmacs=4.1, top1=81.5, note="parameters without the classifier, rounded down"),
    "lit_medium": Published(params=48, gmacs=8.6, top1=83.0, note="parameters without the classifier, rounded down"),
    "lit_base": Published(params=86, gmacs=15.0, top1=83.4, note="parameters without the classifier, rounded down"),
}


def _create(variant: str, pretrained: bool, **kwargs: Any) -> LIT:
    return build(LIT, variant, pretrained, checkpoint_filter_fn, **kwargs)


@register_model
def lit_tiny(pretrained: bool = False, **kwargs: Any) -> LIT:
    """LIT-Ti, 19.886M parameters, 3.61 GMACs at 224; 81.1% top-1 in the paper: embeddings and a class token."""
    size = dict(dims=(64, 128, 320, 512), depths=(3, 4, 6, 3), mlp_ratios=(8, 8, 4, 4), head_dim=64, eps=1e-6)
    return _create("lit_tiny", pretrained, **{**size, "class_token": True, "global_pool": "token", **kwargs})


@register_model
def lit_small(pretrained: bool = False, **kwargs: Any) -> LIT:
    """LIT-S, 27.974M parameters, 4.08 GMACs at 224; 81.5% top-1 in the paper."""
    size = dict(dims=(96, 192, 384, 768), depths=(2, 2, 6, 2))
    return _create("lit_small", pretrained, **dict(size, **kwargs))


@register_model
def lit_medium(pretrained: bool = False, **kwargs: Any) -> LIT:
    """LIT-M, 49.372M parameters, 8.59 GMACs at 224; 83.0% top-1 in the paper: only stage 3 is deeper."""
    size = dict(dims=(96, 192, 384, 768), depths=(2, 2, 18, 2))
    return _create("lit_medium", pretrained, **dict(size, **kwargs))


@register_model
def lit_base(pretrained: bool = False, **kwargs: Any) -> LIT:
    """LIT-B, 87.292M parameters, 15.03 GMACs at 224; 83.4% top-1 in the paper."""
    size = dict(dims=(128, 256, 512, 1024), depths=(2, 2, 18, 2))
    return _create("lit_base", pretrained, **dict(size, **kwargs))
