"""Which layer of a network is the first that an exported file computes differently."""

from bisect import bisect_left
from collections.abc import Callable
from contextlib import ExitStack
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
    layers = running_order(artifact.net, artifact.example)
    with bar("searching the layer that differs", max(len(layers).bit_length(), 1)) as advance:

        def differs(layer: str) -> bool:
            advance(note=layer)
            return not agrees(artifact, layer)

        first = bisect_left(layers, True, key=differs)
    if first == len(layers):
        return "none: the difference arises after the last layer"
    name = layers[first]
    return f"{name.removeprefix('task.')} ({type(artifact.net.get_submodule(name)).__name__})"


def running_order(net: nn.Module, example: Tensor) -> list[str]:
    """Names of the layers that hold weights or contain no layers, in the order in which they last ran."""
    order: dict[str, None] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                order.pop(name, None)
                order[name] = None

        return hook

    with ExitStack() as hooks, torch.inference_mode():
        for name, module in net.named_modules():
            layer = any(True for _ in module.parameters(recurse=False)) or not any(True for _ in module.children())
            if name and layer and not isinstance(module, nn.Identity | nn.Dropout | nn.Dropout2d):
                hooks.callback(module.register_forward_hook(note(name)).remove)
        net(example)
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
        a.shape == b.shape
        and bool((a - b).abs().max() <= artifact.form.bounds.raw * a.square().mean().sqrt().clamp(min=1e-6))
        for a, b in zip(expected, got, strict=True)
    )
