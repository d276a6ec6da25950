"""Which layer of a network is the first that an exported file computes differently."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from featherbone.errors import FeatherboneError
from featherbone.progress import bar
from featherbone.runtimes import open_file
from featherbone.tasks.raw import Flat, flatten

BOUND = 1e-3
"""Of a layer's output, in root mean squares."""


class Tapped(nn.Module):
    """A network whose only output is that of one of its layers."""

    def __init__(self, net: nn.Module, layer: str) -> None:
        super().__init__()
        self.net, self.layer = net, layer

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The input of the network to the floating-point tensors that the layer gave last."""
        kept: list[Any] = []
        handle = self.net.get_submodule(self.layer).register_forward_hook(lambda _m, _i, output: kept.append(output))
        try:
            self.net(images)
        finally:
            handle.remove()
        return tuple(x for x in flatten(kept[-1]).values() if x.is_floating_point())


def first_difference(net: Flat, form: Any, example: Tensor) -> str:
    """The name and kind of the first layer whose output differs, by bisection over the layers in running order.

    `form` is as in `contract`; each step exports the network up to a layer and runs it.
    """
    layers = running_order(net, example)
    low, high = 0, len(layers)  # the layers before `low` agree, the one at `high` differs
    with bar("looking for the layer that differs", max(len(layers).bit_length(), 1)) as advance:
        while low < high:
            middle = (low + high) // 2
            if agrees(Tapped(net, layers[middle]), form, example):
                low = middle + 1
            else:
                high = middle
            advance(note=layers[middle])
    if low == len(layers):
        return "none alone: what is done with the last layer's output"
    name = layers[low]
    return f"{name.removeprefix('task.')} ({type(net.get_submodule(name)).__name__})"


def running_order(net: nn.Module, example: Tensor) -> list[str]:
    """Names of the layers that hold weights of their own, or hold no layers, in the order in which they last ran."""
    order: dict[str, None] = {}
    handles = []

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                order.pop(name, None)
                order[name] = None

        return hook

    for name, module in net.named_modules():
        own = any(True for _ in module.parameters(recurse=False)) or not any(True for _ in module.children())
        if name and own and not isinstance(module, nn.Identity | nn.Dropout | nn.Dropout2d):
            handles.append(module.register_forward_hook(note(name)))
    try:
        with torch.inference_mode():
            net(example)
    finally:
        for handle in handles:
            handle.remove()
    return list(order)


def agrees(net: nn.Module, form: Any, example: Tensor) -> bool:
    """Whether a network and its file give the same for an example; one that cannot be written or run does not."""
    with torch.inference_mode():
        expected = net(example)
    names = [f"x_{i}" for i in range(len(expected))]
    with TemporaryDirectory() as folder:
        path = Path(folder) / form.target.file
        try:
            form.target.write(net, example, path, names, form.dynamic)
            got = open_file(path, form.target.name, trust=True)(example)
        except (FeatherboneError, RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError):
            return False
    return all(
        a.shape == b.shape and bool((a - b).abs().max() <= BOUND * a.square().mean().sqrt().clamp(min=1e-6))
        for a, b in zip(expected, got, strict=True)
    )
