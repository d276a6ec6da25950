"""A network as torch's exported program, in the form that devices take."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from featherbone.ops.attention import device_form


def device_program(
    net: nn.Module, example: Tensor, shapes: tuple[dict[int, Any]] | None = None
) -> torch.export.ExportedProgram:
    """The program of a network in the `form_for_devices`; `shapes` are `torch.export`'s `dynamic_shapes`."""
    with form_for_devices(net):
        return torch.export.export(net, (example,), dynamic_shapes=shapes, strict=False)


@contextmanager
def form_for_devices(net: nn.Module) -> Iterator[None]:
    """Inside, a network exports in the form that devices take: attention by matrix products, nothing that they lack."""
    with device_form(), spelt_out(net):
        yield


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
