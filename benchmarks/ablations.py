"""Our backbones with one idea of their paper replaced by the plain thing, to be trained beside the originals.

The variants are registered with timm by `register`, for scripts that import it before they train or compare them:

    from ablations import register
    register()
    featherbone.train("flowers", "lvt_conv")

Run as a script, it prints what each replacement changes: parameters with 1000 classes, and multiply-adds of one image
in convolutions and matrix products.

    python benchmarks/ablations.py --image-size 64
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import timm
from timm.layers import get_device_dtype
from timm.models import generate_default_cfgs, get_pretrained_cfg, register_model
from torch import Tensor, nn

import featherbone  # noqa: F401  # registers the originals
from featherbone.backbones import lightvit, lit, lvt, xformer
from featherbone.backbones.checkpoints import build
from featherbone.benchmarking.models import count_cost
from operators import table


def swap(net: nn.Module, kind: type[nn.Module], make: Callable[[Any], nn.Module]) -> None:
    """Replace every module of a `kind` inside `net` by what `make` builds for it, on the network's device."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is kind:
                setattr(parent, name, make(child).to(**get_device_dtype(net)))


class MapConv(nn.Conv2d):
    """A 3x3 convolution on a map (B, H, W, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        return lvt.channels_last(super().forward(lvt.channels_first(input)))


class ConvLVT(lvt.LVT):
    """LVT whose stage 1 mixes positions by fixed weights."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        swap(self, lvt.CSA, lambda csa: MapConv(csa.proj.in_features).apply(lvt.init_weights))


class WindowAttention(lightvit.Attention):
    """Attention inside windows, the first of LightViT's three terms, on the tokens (B, H*W, C) of an image."""

    def __init__(self, dim: int, window_size: int) -> None:
        super().__init__(dim, window_size)
        del self.kv_global

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        size = self.window_size
        image = self.windows.pad(tokens.unflatten(1, (height, width)), size)
        rows, columns = image.shape[1:3]
        _, *parts = self.qkv.split(self.windows.cut(image, size), 0)
        y = self.attend_windows(*map(self.heads, parts), self.position_bias()).transpose(1, 2).flatten(2)
        image = self.windows.join(y, rows, columns, size)
        return self.proj(self.windows.crop(image, height, width).flatten(1, 2))


class WindowEmbed(lightvit.Embed):
    """The end of the stem, without global tokens."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__(in_dim, dim, num_global_tokens=1)
        del self.global_tokens

    def forward(self, state: lightvit.State) -> lightvit.State:
        x = self.proj(state.split()[1].permute(0, 3, 1, 2))
        return lightvit.State(self.norm(x.flatten(2).transpose(1, 2)), x.shape[2], x.shape[3])


class NoTokens(nn.Module):
    """Global tokens (B, 0, C) to (B, 0, D): there are none."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.new_zeros(tokens.shape[0], 0, self.dim)


def window_merge(merge: lightvit.Merge) -> lightvit.Merge:
    """The merge itself, without its layers for global tokens."""
    merge.global_norm, merge.global_proj = nn.Identity(), NoTokens(merge.reduce.out_features)
    return merge


class WindowLightViT(lightvit.LightViT):
    """LightViT whose image tokens see their window and nothing else."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

        def attention(old: lightvit.Attention) -> nn.Module:
            return WindowAttention(old.proj.in_features, old.window_size).apply(lightvit.init_weights)

        def embed(old: lightvit.Embed) -> nn.Module:
            new = WindowEmbed(old.proj.in_channels, old.proj.out_channels)
            new.load_state_dict(old.state_dict(), strict=False)
            return new

        swap(self, lightvit.Attention, attention)
        swap(self, lightvit.Embed, embed)
        swap(self, lightvit.Merge, window_merge)
        self.num_prefix_tokens = 0


def lvt_conv(pretrained: bool = False, **kwargs: Any) -> lvt.LVT:
    """`lvt` with an ordinary 3x3 convolution of the same width in place of convolutional self-attention (CSA).

    The nine matrices of CSA remain, as the kernel; the attention that weighs their results, and the projection, go.
    There are fewer parameters but more products: windows of CSA have stride 2, those of the convolution stride 1.
    """
    return build(ConvLVT, "lvt_conv", pretrained, lvt.checkpoint_filter_fn, **kwargs)


def xformer_small_softmax(pretrained: bool = False, **kwargs: Any) -> xformer.XFormer:
    """`xformer_small` with softmax attention in place of cross feature attention (XFA).

    Queries, keys, values and output have the same projections; the compression of the scores and the temperatures go.
    The cost grows with the square of the positions instead of with their number.
    """
    given = {**kwargs, "softmax_attention": True}
    return build(xformer.XFormer, "xformer_small_softmax", pretrained, xformer.checkpoint_filter_fn, **given)


def lit_tiny_plain(pretrained: bool = False, **kwargs: Any) -> lit.LIT:
    """`lit_tiny` with 2x2 convolutions of stride 2 in place of deformable token merging (DTM).

    The convolutions that predict the offsets go, and nothing else changes.
    """
    size = dict(dims=(64, 128, 320, 512), depths=(3, 4, 6, 3), mlp_ratios=(8, 8, 4, 4), head_dim=64, eps=1e-6)
    given = {**size, "class_token": True, "global_pool": "token", **kwargs, "deformable": False}
    return build(lit.LIT, "lit_tiny_plain", pretrained, lit.checkpoint_filter_fn, **given)


def lightvit_tiny_local(pretrained: bool = False, **kwargs: Any) -> lightvit.LightViT:
    """`lightvit_tiny` with attention inside windows only, without global tokens.

    The global tokens, their layers between stages, their gathering and their broadcast go. What is left of the whole
    image is the mean of all tokens in the gates of the feed-forward networks.
    """
    return build(WindowLightViT, "lightvit_tiny_local", pretrained, lightvit.checkpoint_filter_fn, **kwargs)


def lightvit_tiny_plain_mlp(pretrained: bool = False, **kwargs: Any) -> lightvit.LightViT:
    """`lightvit_tiny` with plain feed-forward networks, without bi-dimensional attention.

    The gates over channels and positions go, with their LayerNorm.
    """
    given = {**kwargs, "bidimensional": False}
    return build(lightvit.LightViT, "lightvit_tiny_plain_mlp", pretrained, lightvit.checkpoint_filter_fn, **given)


VARIANTS: dict[Callable[..., nn.Module], str] = {
    lvt_conv: "lvt",
    xformer_small_softmax: "xformer_small",
    lit_tiny_plain: "lit_tiny",
    lightvit_tiny_local: "lightvit_tiny",
    lightvit_tiny_plain_mlp: "lightvit_tiny",
}
"""Variants and the names of their originals."""

default_cfgs = generate_default_cfgs(  # timm reads it by this name
    {
        f"{make.__name__}.untrained": get_pretrained_cfg(original).to_dict(remove_source=True, remove_null=True)
        for make, original in VARIANTS.items()
    }
)


def register() -> dict[str, str]:
    """Register the variants with timm, once; their names and those of their originals."""
    for make in VARIANTS:
        if not timm.is_model(make.__name__):
            register_model(make)
    return {make.__name__: original for make, original in VARIANTS.items()}


def costs(variants: dict[str, str], side: int) -> list[dict[str, Any]]:
    """Rows of parameters and multiply-adds, each original before its variants."""
    rows, seen = [], {}
    for variant, original in variants.items():
        for name in (original, variant):
            if name in seen:
                continue
            params, macs = seen[name] = count_cost(lambda name=name: timm.create_model(name), side, side)
            row = {"model": name, "parameters": f"{params:,}", "MACs": f"{macs:,}", "change": "", "change of MACs": ""}
            if name == variant:
                before = seen[original]
                row["change"] = f"{params - before[0]:+,} ({params / before[0] - 1:+.1%})"
                row["change of MACs"] = f"{macs - before[1]:+,} ({macs / before[1] - 1:+.1%})"
            rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=64)
    given = parser.parse_args(arguments)
    rows = costs(register(), given.image_size)
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
