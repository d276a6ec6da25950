"""How much a network's output suffers when only one layer computes in int8, independent of the runtime.

A layer is a weight that images are convolved or multiplied with. Its weight is rounded per output channel,
symmetric; what goes in and what comes out per tensor, asymmetric, over the range seen on calibration images. What comes
out is rounded behind the batch norm and the ReLU that runtimes fold into the product.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from featherbone.data.sampling import spread
from featherbone.exporters.artifact import raw_difference
from featherbone.exporters.forms import flatten
from featherbone.progress import bar

PRODUCTS = (F.conv2d, F.linear)
FOLDED = (F.batch_norm, F.relu)
"""What runtimes make a part of the product that it follows."""
BATCH = 8

Place = tuple[str, int]
"""A layer, and which of its calls in one pass: a layer may serve several maps."""


@dataclass(frozen=True)
class Sensitivity:
    """A layer and what it does to the output."""

    layer: str
    """Name of the module, or of the parameter where a module holds several."""
    error: float
    """Of the raw tensors, root mean square in root mean squares of the float network's, if only this layer is int8."""


def layer_names(net: nn.Module) -> dict[int, str]:
    """The layer of each parameter of a network, by identity of the parameter."""
    return {id(value): layer_of(name) for name, value in net.named_parameters()}


def layer_of(parameter: str) -> str:
    """The layer of a parameter's name, in a task or in a network built round it."""
    while parameter.startswith("task."):
        parameter = parameter.removeprefix("task.")
    return parameter.removesuffix(".weight")


class _Watching(TorchFunctionMode):
    """Hands what goes into a product to `given` and what comes out to `made`, and goes on with what these return."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names = names
        self.calls: Counter[str] = Counter()
        self.open: tuple[Place, Tensor, int] | None = None
        """The last product, its output, and how many folded operations followed it so far."""

    def given(self, place: Place, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Input (any shape) and weight (output channels first) of a product."""
        return x, weight

    def made(self, place: Place, x: Tensor, folded: int) -> Tensor:
        """Output behind `folded` operations."""
        return x

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in PRODUCTS and len(args) > 1 and (name := self.names.get(id(args[1]))) is not None:
            place = (name, self.calls[name])
            self.calls[name] += 1
            out = func(*self.given(place, *args[:2]), *args[2:], **kwargs)
            return self._note(place, out, 0)
        if func in FOLDED and self.open is not None and args and args[0] is self.open[1]:
            place, _, folded = self.open
            return self._note(place, func(*args, **kwargs), folded + 1)
        out = func(*args, **kwargs)
        if self.open is not None and out is self.open[1]:
            self.open = None  # changed in place by something that is not folded, as a sum
        return out

    def _note(self, place: Place, out: Tensor, folded: int) -> Tensor:
        out = self.made(place, out, folded)
        self.open = (place, out, folded)
        return out


class _Ranging(_Watching):
    """Keeps the least and the largest value of each input and output."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__(names)
        self.inputs: dict[Place, tuple[float, float]] = {}
        self.outputs: dict[tuple[Place, int], tuple[float, float]] = {}

    def given(self, place: Place, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        self.inputs[place] = _widen(self.inputs.get(place), x)
        return x, weight

    def made(self, place: Place, x: Tensor, folded: int) -> Tensor:
        self.outputs[place, folded] = _widen(self.outputs.get((place, folded)), x)
        return x


class _Rounding(_Watching):
    """Computes one layer as int8 would."""

    def __init__(self, names: dict[int, str], layer: str, seen: _Ranging) -> None:
        super().__init__(names)
        self.layer, self.seen = layer, seen

    def given(self, place: Place, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        if place[0] != self.layer:
            return x, weight
        return fake_activation(x, self.seen.inputs[place]), fake_weight(weight)

    def made(self, place: Place, x: Tensor, folded: int) -> Tensor:
        if place[0] != self.layer or (place, folded + 1) in self.seen.outputs:
            return x
        return fake_activation(x, self.seen.outputs[place, folded])


def fake_weight(weight: Tensor) -> Tensor:
    """A weight (C, ...) rounded to 255 steps per output channel, symmetric."""
    scale = weight.detach().flatten(1).abs().amax(1).clamp(min=1e-12) / 127
    return torch.fake_quantize_per_channel_affine(
        weight, scale, torch.zeros_like(scale, dtype=torch.int32), 0, -127, 127
    )


def fake_activation(x: Tensor, seen: tuple[float, float]) -> Tensor:
    """Values rounded to 256 steps over the range `seen` and 0."""
    low, high = min(seen[0], 0.0), max(seen[1], 0.0)
    scale = max((high - low) / 255, 1e-12)
    return torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, 255)


def rank_layers(task: nn.Module, images: Tensor) -> list[Sensitivity]:
    """The layers of a task that its output passes through, the most sensitive first.

    Ranges are those of all normalised `images`, errors those of a batch spread over them.
    """
    names = layer_names(task)
    with torch.inference_mode():
        seen = _Ranging(names)
        for part in images.split(BATCH):
            seen.calls.clear()
            with seen:
                task(part)
        few = spread_batch(images)
        expected = flatten(task(few))
        layers = list(dict.fromkeys(name for name, _ in seen.inputs))
        found = []
        with bar("ranking layers", len(layers)) as advance:
            for layer in layers:
                with _Rounding(names, layer, seen):
                    got = flatten(task(few))
                found.append(Sensitivity(layer, raw_difference(expected, got).error))
                advance(note=layer)
    return sorted(found, key=lambda each: -each.error)


def spread_batch(images: Tensor) -> Tensor:
    """A batch from all over the images: neighbours are often of one class."""
    return images[spread(len(images), BATCH)]


def _widen(seen: tuple[float, float] | None, x: Tensor) -> tuple[float, float]:
    low, high = (float(value) for value in torch.aminmax(x)) if x.numel() else (0.0, 0.0)
    return (low, high) if seen is None else (min(seen[0], low), max(seen[1], high))
