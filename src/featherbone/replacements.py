"""The table of module replacements in the forms of a network.

Rows are by a module's exact type, then by column: `deployed`, constants of inference computed once; `compiled`, whole
batches instead of loops over images; `graph`, faster in runtimes; `size`, with open height and width; `device`, by
operators of phones; `inference`, faster in eager PyTorch; `triton`, kernels for GPUs. `deployment.STEPS` combines them.
Each replacement except those of `triton` equals its module in float64; a test finds all rows by itself.
"""

from collections.abc import Callable, Mapping
from typing import Any

from timm.layers import DropPath
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from featherbone.backbones import lightvit, lit, lvt, xformer
from featherbone.heads import nms_free, roi
from featherbone.ops import atrous, attention, csa, deform, windows, xfa

Build = Callable[[Any, tuple[int, int] | None], nn.Module]
"""A module and the image size, if it is fixed, to the replacement."""


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
        fuse(merge.conv, norm)
        merge.norm = nn.Identity()
    return merge


def fuse(conv: Any, norm: Any) -> None:
    """Fold a norm into the convolution before it."""
    statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)


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


def split_projection(**functions: Any) -> Build:
    """LightViT's attention with its projection in parts, and with other functions."""

    def build(module: lightvit.Attention, image_size: tuple[int, int] | None) -> nn.Module:
        assert isinstance(module.qkv, lightvit.Projection)
        module.qkv = lightvit.SplitProjection(module.qkv)
        return attributes(**functions)(module, image_size)

    return build


def convolution(linear: lvt.Pointwise, image_size: tuple[int, int] | None) -> nn.Module:
    """A 1x1 convolution: ONNX Runtime keeps maps between convolutions in another layout, and a product needs a copy."""
    conv = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=linear.bias is not None, device="meta")
    conv.weight, conv.bias = nn.Parameter(linear.weight[:, :, None, None]), linear.bias
    return conv


def fold_norms(module: nms_free.Separable, image_size: tuple[int, int] | None) -> nn.Module:
    """Norms of several levels, folded into one convolution each; a single one is folded by `deploy`."""
    folded = all(isinstance(norm, nn.BatchNorm2d) for norm in module.norms)
    return nms_free.FoldedSeparable(module) if folded and len(module.norms) > 1 else module


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


OPEN_WINDOWS = attributes(windows=windows.OpenWindows)
PLAIN_ATTENTION = attributes(attention=attention.attention_plain)
OPEN_RESIZE = attributes(resize=lit.resize_grid_open)

TABLE: dict[type[nn.Module], Mapping[str, Build]] = {
    DropPath: {"deployed": identity},
    nn.Dropout: {"deployed": identity},
    nn.Dropout2d: {"deployed": identity},
    lvt.CSA: {
        "compiled": attributes(mix=csa.csa_batched),
        "graph": attributes(attend_taps=csa.tap_attention_by_map, mix=csa.csa_gathered),
        "size": attributes(pool=csa.pool_open, mix=csa.csa_open),
        "device": attributes(attend_taps=csa.tap_attention_by_window, mix=csa.csa_sliced),
        "triton": csa_kernel,
    },
    lvt.RASA: {"compiled": attributes(convolve=atrous.atrous_plain), "device": PLAIN_ATTENTION},
    lvt.Pointwise: {"graph": convolution},
    lvt.Mlp: {"graph": attributes(parts=2), "size": attributes(parts=1)},
    lvt.ClassBlock: {"device": PLAIN_ATTENTION},
    lightvit.Attention: {
        "deployed": keep_bias,
        "graph": split_projection(attend_windows=windows.window_attention_plain, attend=attention.attention_plain),
        "size": OPEN_WINDOWS,
        "device": split_projection(attend_windows=windows.window_attention_by_head, attend=attention.attention_plain),
    },
    lightvit.Merge: {"size": OPEN_WINDOWS, "device": attributes(halve=windows.fold)},
    lightvit.Stage: {"deployed": attributes(in_column=True), "size": attributes(in_column=False)},
    lit.LIT: {"deployed": resize_tables},
    lit.PatchEmbed: {"size": OPEN_WINDOWS},
    lit.LearnedGrid: {"size": OPEN_RESIZE},
    lit.PositionBias: {"inference": constant_bias, "size": OPEN_RESIZE, "device": constant_bias},
    lit.DTM: {
        "deployed": fold_norm,
        "compiled": attributes(merge=deform.merge_batched),
        "device": attributes(merge=deform.merge_sampled),
        "triton": merge_kernel,
    },
    lit.Attention: {"device": PLAIN_ATTENTION},
    xformer.XFA: {"device": attributes(normalize=xfa.unit_length_plain)},
    xformer.SoftmaxAttention: {"device": PLAIN_ATTENTION},
    nms_free.Separable: {"deployed": fold_norms},
    roi.RoIReader: {"compiled": attributes(read=roi.read_all)},
}
"""Module type and column to the replacement."""
