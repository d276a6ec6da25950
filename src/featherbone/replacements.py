"""The table of module replacements in the forms of a network.

A key is a module's exact type and a column. Columns: `deployed`, constants of inference computed once; `compiled`,
whole batches instead of loops over images; `graph`, faster in runtimes; `size`, with open height and width; `device`,
by operators of phones; `inference`, faster in eager PyTorch; `triton`, kernels for GPUs. `deployment.STEPS` combines
them. Each row except those of `triton` equals its module in float64; a test runs all of them on their examples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from featherbone.backbones import lightvit, lit, lvt, xformer
from featherbone.heads import roi
from featherbone.heads.levels import Level
from featherbone.ops import atrous, attention, csa, deform, windows

Build = Callable[[Any, tuple[int, int] | None], nn.Module]
"""A module and the image size, if it is fixed, to the replacement."""
Example = tuple[nn.Module, tuple[Any, ...]]


@dataclass(frozen=True)
class Replacement:
    """One row."""

    build: Build
    example: Callable[[], Example]
    """A module that the row replaces, and arguments for both."""


def attributes(**values: Any) -> Build:
    """The same module with other attributes, most often the functions that it computes with."""

    def build(module: nn.Module, image_size: tuple[int, int] | None) -> nn.Module:
        for name, value in values.items():
            assert hasattr(type(module), name), f"{type(module).__name__} has no {name}"
            setattr(module, name, value)
        return module

    return build


def fold_norm(merge: lit.DTM, image_size: tuple[int, int] | None) -> nn.Module:
    """The norm behind a merge, folded into the weights that the sampled rows meet."""
    norm = merge.norm
    if merge.offset is not None and isinstance(norm, nn.BatchNorm2d):
        assert norm.running_mean is not None and norm.running_var is not None
        merge.conv.weight, merge.conv.bias = fuse_conv_bn_weights(
            merge.conv.weight, merge.conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        merge.norm = nn.Identity()
    return merge


def keep_bias(module: lightvit.Attention, image_size: tuple[int, int] | None) -> nn.Module:
    """The bias of a window, read from its table once."""
    module.bias = module.position_bias().detach()
    return module


def resize_tables(net: lit.LIT, image_size: tuple[int, int] | None) -> nn.Module:
    """Tables of positions at the size of the image's maps."""
    if image_size is not None:
        net.set_input_size(image_size)
    return net


def constant_bias(bias: lit.PositionBias, image_size: tuple[int, int] | None) -> nn.Module:
    """The bias as a constant, if the image size is fixed."""
    return bias if image_size is None else lit.ConstantBias(bias)


def convolution(linear: lvt.Pointwise, image_size: tuple[int, int] | None) -> nn.Module:
    """A 1x1 convolution: ONNX Runtime keeps maps between convolutions in another layout, and a product needs a copy."""
    conv = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=linear.bias is not None, device="meta")
    conv.weight, conv.bias = nn.Parameter(linear.weight[:, :, None, None]), linear.bias
    return conv


def identity(module: nn.Module, image_size: tuple[int, int] | None) -> nn.Module:
    """No operation."""
    return nn.Identity()


def csa_kernel(module: nn.Module, image_size: tuple[int, int] | None) -> nn.Module:
    """The Triton kernel, which is imported here because Triton is optional."""
    from featherbone.ops.kernels.csa import csa_kernel

    return attributes(mix=csa_kernel)(module, image_size)


def merge_kernel(module: nn.Module, image_size: tuple[int, int] | None) -> nn.Module:
    """As `csa_kernel`."""
    from featherbone.ops.kernels.deform import merge_kernel

    return attributes(merge=merge_kernel)(module, image_size)


def _rows(kind: type, example: Callable[[], Example], **columns: Build) -> dict[tuple[type, str], Replacement]:
    return {(kind, column): Replacement(build, example) for column, build in columns.items()}


def draw(*shape: int) -> Tensor:
    """A tensor of an example."""
    return torch.randn(shape)


BOXES = torch.tensor([[0.0, 0.0, 120.0, 124.0], [4.0, 24.0, 44.0, 84.0]])
OPEN = attributes(windows=windows.OpenWindows)
PLAIN_ATTENTION = attributes(attention=attention.attention_plain)
RESIZED = attributes(resize=lit.resize_grid_open)

TABLE = {
    **_rows(DropPath, lambda: (DropPath(0.5), (draw(2, 3),)), deployed=identity),
    **_rows(nn.Dropout, lambda: (nn.Dropout(0.5), (draw(2, 3),)), deployed=identity),
    **_rows(nn.Dropout2d, lambda: (nn.Dropout2d(0.5), (draw(2, 3, 4, 4),)), deployed=identity),
    **_rows(
        lvt.CSA,
        lambda: (lvt.CSA(8, 2), (draw(2, 5, 4, 8),)),
        compiled=attributes(mix=csa.csa_batched),
        graph=attributes(attend_taps=csa.tap_attention_plain),
        size=attributes(pool=csa.pool_open, mix=csa.csa_open),
        device=attributes(mix=csa.csa_sliced),
        triton=csa_kernel,
    ),
    **_rows(
        lvt.RASA,
        lambda: (lvt.RASA(8, 2, 2, 2), (draw(2, 5, 4, 8),)),
        compiled=attributes(convolve=atrous.atrous_plain),
        device=PLAIN_ATTENTION,
    ),
    **_rows(lvt.Pointwise, lambda: (lvt.Pointwise(4, 6), (draw(2, 4, 3, 5),)), graph=convolution),
    **_rows(lvt.ClassBlock, lambda: (lvt.ClassBlock(8, 2, 2), (draw(2, 1, 8), draw(2, 5, 8))), device=PLAIN_ATTENTION),
    **_rows(
        lightvit.Attention,
        lambda: (lightvit.Attention(64, 3), (draw(2, 2 + 4 * 5, 64), 4, 5)),
        deployed=keep_bias,
        graph=attributes(attend_windows=windows.window_attention_plain),
        size=OPEN,
        device=attributes(attend_windows=windows.window_attention_by_head, attend=attention.attention_plain),
    ),
    **_rows(
        lightvit.Projection,
        lambda: (lightvit.Projection(8, 24), (draw(2, 6, 8), 2)),
        graph=lambda module, _: lightvit.SplitProjection(module),
        device=lambda module, _: lightvit.SplitProjection(module),
    ),
    **_rows(
        lightvit.Merge,
        lambda: (lightvit.Merge(8, 12), (lightvit.State(draw(2, 2 + 5 * 4, 8), 5, 4),)),
        size=OPEN,
    ),
    **_rows(
        lightvit.Stage,
        lambda: (
            lightvit.Stage(lightvit.Merge(32, 64), [lightvit.Block(64, 2, 3, True, 0.0)], 3),
            (lightvit.State(draw(2, 2 + 12 * 12, 32), 12, 12), False),
        ),
        deployed=attributes(in_column=True),
        size=attributes(in_column=False),
    ),
    **_rows(
        lit.LIT,
        lambda: (lit.LIT(dims=(8, 8, 8, 8), depths=(1, 1, 1, 1), head_dim=8), (draw(1, 3, 64, 96),)),
        deployed=resize_tables,
    ),
    **_rows(lit.LearnedGrid, lambda: (lit.LearnedGrid(4, 3, 3, "bilinear"), (5, 4)), size=RESIZED),
    **_rows(
        lit.PositionBias,
        lambda: (lit.PositionBias(2, 3), (3, 3)),
        inference=constant_bias,
        size=RESIZED,
        device=constant_bias,
    ),
    **_rows(
        lit.DTM,
        lambda: (lit.DTM(4, 6, deformable=True), (draw(2, 5, 6, 4),)),
        deployed=fold_norm,
        compiled=attributes(merge=deform.merge_batched),
        device=attributes(merge=deform.merge_sampled),
        triton=merge_kernel,
    ),
    **_rows(lit.Attention, lambda: (lit.Attention(8, 2, None), (draw(2, 6, 8), 2, 3)), device=PLAIN_ATTENTION),
    **_rows(
        xformer.SoftmaxAttention, lambda: (xformer.SoftmaxAttention(8, 2), (draw(2, 6, 8),)), device=PLAIN_ATTENTION
    ),
    **_rows(
        roi.RoIAlign,
        lambda: (
            roi.RoIAlign(),
            ([draw(2, 4, 32, 32), draw(2, 4, 16, 16)], [Level(4, 4), Level(4, 8)], BOXES.expand(2, -1, -1).unbind(), 7),
        ),
        compiled=attributes(align=roi.align_all),
    ),
}
"""Module type and column to the replacement."""
