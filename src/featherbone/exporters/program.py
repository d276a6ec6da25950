"""A network as torch's exported program, in the form that devices take."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from featherbone.layers.pyramid import PyramidBackbone
from featherbone.ops.attention import device_form


def device_program(
    net: nn.Module, example: Tensor, shapes: tuple[dict[int, Any]] | None = None
) -> torch.export.ExportedProgram:
    """The program of a network `for_devices`; `shapes` are `torch.export`'s `dynamic_shapes`."""
    open_size = shapes is not None and any(dim > 0 for dim in shapes[0])
    with for_devices(net, None if open_size else example) as sized:
        return torch.export.export(sized, (example,), dynamic_shapes=shapes, strict=False)


@contextmanager
def for_devices(net: nn.Module, example: Tensor | None = None) -> Iterator[nn.Module]:
    """A network that exports with attention spelt out, and for the size of an example, with tables of that size.

    The network itself stays as it is.
    """
    sized = net if example is None else at_size(net, example)
    with device_form(), spelt_out(sized):
        yield sized


def at_size(net: nn.Module, example: Tensor) -> nn.Module:
    """A copy of a network whose learned tables have the size that the example asks for, so that none is resized.

    The network itself, where it has none.
    """

    def resizable(one: nn.Module) -> list[Any]:
        return [m for m in one.modules() if isinstance(m, PyramidBackbone) and hasattr(m, "set_input_size")]

    if not resizable(net):
        return net
    net = deepcopy(net)
    first = 1 if example.dtype == torch.uint8 else 2
    for backbone in resizable(net):
        backbone.set_input_size(tuple(example.shape[first : first + 2]))
    return net


@contextmanager
def spelt_out(net: nn.Module) -> Iterator[None]:
    """Attention of timm's models by matrix products, by timm's own switch."""
    fused = [module for module in net.modules() if getattr(module, "fused_attn", False) is True]
    for module in fused:
        module.fused_attn = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True  # type: ignore[assignment]
