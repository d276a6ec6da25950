"""Which layer of a network is the first that an exported file computes differently."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from featherbone.errors import FeatherboneError
from featherbone.exporters.artifact import Artifact
from featherbone.exporters.forms import Flat, flatten
from featherbone.progress import bar

BOUND = 1e-3
"""Maximum difference of a layer's output, in root mean squares."""


class LayerOutput(nn.Module):
    """A network whose only output is that of one of its layers."""

    def __init__(self, net: nn.Module, layer: str) -> None:
        super().__init__()
        self.net, self.layer = net, layer

    def forward(self, images: Tensor) -> list[Tensor]:
        """The input of the network to the floating-point outputs of the layer's last call."""
        kept: list[Any] = []
        handle = self.net.get_submodule(self.layer).register_forward_hook(lambda _m, _i, output: kept.append(output))
        try:
            self.net(images)
        finally:
            handle.remove()
        return [x for x in flatten(kept[-1]).values() if x.is_floating_point()]


def first_difference(artifact: Artifact) -> str:
    """Name and type of the first layer whose output differs, by bisection over the layers in running order.

    Each step exports the network up to a layer and runs it.
    """
    net = artifact.net
    layers = running_order(net, artifact.example)
    low, high = 0, len(layers)  # the layers before `low` agree, the one at `high` differs
    with bar("searching the layer that differs", max(len(layers).bit_length(), 1)) as advance:
        while low < high:
            middle = (low + high) // 2
            if agrees(artifact, layers[middle]):
                low = middle + 1
            else:
                high = middle
            advance(note=layers[middle])
    if low == len(layers):
        return "none: the difference arises after the last layer"
    name = layers[low]
    return f"{name.removeprefix('task.')} ({type(net.get_submodule(name)).__name__})"


def running_order(net: nn.Module, example: Tensor) -> list[str]:
    """Names of the layers that hold weights or contain no layers, in the order in which they last ran."""
    order: dict[str, None] = {}
    handles = []

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                order.pop(name, None)
                order[name] = None

        return hook

    for name, module in net.named_modules():
        layer = any(True for _ in module.parameters(recurse=False)) or not any(True for _ in module.children())
        if name and layer and not isinstance(module, nn.Identity | nn.Dropout | nn.Dropout2d):
            handles.append(module.register_forward_hook(note(name)))
    try:
        with torch.inference_mode():
            net(example)
    finally:
        for handle in handles:
            handle.remove()
    return list(order)


def agrees(artifact: Artifact, layer: str) -> bool:
    """Whether network and file give the same output of a layer; if it cannot be written or run, they do not."""
    net = Flat(LayerOutput(artifact.net, layer))
    part = replace(artifact, net=net, names=net.names(artifact.example))
    with torch.inference_mode():
        expected = net(artifact.example)
    with TemporaryDirectory() as folder:
        try:
            part.write(Path(folder))
            got = part.open(Path(folder))(artifact.example)
        except (FeatherboneError, RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError):
            return False
    return all(
        a.shape == b.shape and bool((a - b).abs().max() <= BOUND * a.square().mean().sqrt().clamp(min=1e-6))
        for a, b in zip(expected, got, strict=True)
    )
