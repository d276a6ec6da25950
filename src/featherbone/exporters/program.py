"""A network as torch's exported program, in the form for devices."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from featherbone.deployment import STEPS, Form, use_form


def device_program(
    net: nn.Module, example: Tensor, shapes: tuple[dict[int, Any]] | None = None
) -> torch.export.ExportedProgram:
    """The program of a network in the form for devices; `shapes` are `torch.export`'s `dynamic_shapes`."""
    return torch.export.export(device_form(net), (example,), dynamic_shapes=shapes, strict=False)


def device_form(net: nn.Module) -> nn.Module:
    """A copy with attention by matrix products and without operators that devices lack."""
    net = deepcopy(net)
    for step in STEPS["device"][1:]:
        use_form(net, step)
    return net


def form_of(for_device: bool, dynamic: str) -> Form:
    """The form of `deploy` for a file: for devices, or for runtimes with a fixed or open image size."""
    return "device" if for_device else "size" if dynamic == "size" else "graph"
