"""Which layers of a network should stay float in an int8 file: a ranking, independent of the runtime, and a search.

A layer is a weight that images are convolved or multiplied with. Its weight is rounded per output channel, symmetric;
what goes in and what comes out per tensor, asymmetric, over the range on calibration images. What comes out is rounded
after the batch norm and the ReLU that runtimes fold into the product.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from featherbone.data.sampling import spread
from featherbone.exporters.artifact import raw_difference
from featherbone.exporters.forms import flatten, layer_of
from featherbone.progress import bar

PRODUCTS = (F.conv2d, F.linear)
FOLDED = (F.batch_norm, F.relu)
"""What runtimes make a part of the product that it follows."""
BATCH = 8
MAX_TRIES = 6
"""Maximum number of files of a search."""
SHARES = (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 64)
"""Shares of the error with all layers in int8 that candidates aim at."""

Step = int | Literal["input"]
"""The input of a product, or its output after so many folded operations."""
Ranges = dict[tuple[str, int, Step], tuple[float, float]]
"""Minimum and maximum by layer, number of its call in one pass (a layer may serve several maps) and step."""


@dataclass(frozen=True)
class Sensitivity:
    """A layer and what it does to the output."""

    layer: str
    """Name of the module, or of the parameter where a module holds several."""
    error: float
    """Of the raw tensors, root mean square in root mean squares of the float network's, if only this layer is int8."""


class Products(TorchFunctionMode):
    """Collects the ranges of one pass; with a `layer`, that layer computes as in int8 instead, by given `ranges`."""

    def __init__(self, names: dict[int, str], ranges: Ranges, layer: str | None = None) -> None:
        super().__init__()
        self.names, self.ranges, self.layer = names, ranges, layer
        self.calls: Counter[str] = Counter()
        self.last: tuple[str, int, int, Tensor] | None = None
        """Layer, call, folded operations and output of the last product, unless something else changed the output."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in PRODUCTS and len(args) > 1 and (name := self.names.get(id(args[1]))) is not None:
            x, weight, *rest = args
            call = self.calls[name]
            self.calls[name] += 1
            x = self.visit(name, call, "input", x)
            weight = fake_weight(weight) if name == self.layer else weight
            return self.output(name, call, 0, func(x, weight, *rest, **kwargs))
        if func in FOLDED and self.last is not None and args and args[0] is self.last[3]:
            name, call, folded, _ = self.last
            return self.output(name, call, folded + 1, func(*args, **kwargs))
        out = func(*args, **kwargs)
        if self.last is not None and out is self.last[3]:
            self.last = None  # changed in place by something that is not folded, such as a sum
        return out

    def output(self, name: str, call: int, folded: int, x: Tensor) -> Tensor:
        """The output of a product after `folded` operations."""
        x = self.visit(name, call, folded, x)
        self.last = name, call, folded, x
        return x

    def visit(self, name: str, call: int, step: Step, x: Tensor) -> Tensor:
        """Values of a product, rounded if they are of the layer and nothing is folded after them."""
        place = name, call, step
        if self.layer is None:
            low, high = (float(value) for value in torch.aminmax(x)) if x.numel() else (0.0, 0.0)
            before = self.ranges.get(place, (low, high))
            self.ranges[place] = min(before[0], low), max(before[1], high)
        elif name == self.layer and (step == "input" or (name, call, step + 1) not in self.ranges):
            return fake_activation(x, *self.ranges[place])
        return x


def fake_weight(weight: Tensor) -> Tensor:
    """A weight (C, ...) rounded to 255 steps per output channel, symmetric."""
    scale = weight.detach().flatten(1).abs().amax(1).clamp(min=1e-12) / 127
    return torch.fake_quantize_per_channel_affine(
        weight, scale, torch.zeros_like(scale, dtype=torch.int32), 0, -127, 127
    )


def fake_activation(x: Tensor, low: float, high: float) -> Tensor:
    """Values rounded to 256 steps over the range from `low` to `high`, and 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / 255, 1e-12)
    return torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, 255)


def rank_layers(task: nn.Module, images: Tensor) -> list[Sensitivity]:
    """The layers of a task that its output passes through, the most sensitive first.

    Ranges are those of all normalised `images`, errors those of a batch spread over them.
    """
    names = {id(value): layer_of(name) for name, value in task.named_parameters()}
    ranges: Ranges = {}
    with torch.inference_mode():
        for part in images.split(BATCH):
            with Products(names, ranges):
                task(part)
        few = spread_batch(images)
        expected = flatten(task(few))
        layers = list(dict.fromkeys(name for name, _, _ in ranges))
        found = []
        with bar("ranking layers", len(layers)) as advance:
            for layer in layers:
                with Products(names, ranges, layer):
                    got = flatten(task(few))
                found.append(Sensitivity(layer, raw_difference(expected, got).error))
                advance(note=layer)
    return sorted(found, key=lambda each: -each.error)


def spread_batch(images: Tensor) -> Tensor:
    """A batch from all over the images: neighbours are often of one class."""
    return images[spread(len(images), BATCH)]


@dataclass(frozen=True)
class Point:
    """A file with some layers in float, and its measurements."""

    floats: int
    """Number of layers in float, the first of the ranking."""
    bytes: int
    error: float
    """Error of the raw tensors on calibration images, as in `RawDifference`."""
    metric: float | None = None
    """Metric on the validation images; None if it was not measured because of the error."""
    latency: float = 0.0
    """Milliseconds for one image, median of runs that took turns with the other files'."""

    def keeps(self, minimum: float) -> bool:
        """Whether the metric was measured and is good enough."""
        return self.metric is not None and self.metric >= minimum - 1e-9


def plan(ranking: Sequence[Sensitivity]) -> list[int]:
    """Numbers of layers to leave in float, in the order to try: none, then enough to reduce the error to `SHARES`.

    The errors of layers are assumed to be independent, so their squares add up. At least one layer is int8.
    """
    squares = [each.error**2 for each in ranking]
    left = [sqrt(sum(squares[k:])) for k in range(len(squares))]
    counts = (next((k for k, error in enumerate(left) if error <= left[0] * x), len(left) - 1) for x in SHARES)
    return list(dict.fromkeys(counts))


def search(
    make: Callable[[int], Point], measure: Callable[[Point], Point], minimum: float, counts: list[int]
) -> list[Point]:
    """Try `counts` until a metric is at least `minimum`, then bisect between this count and the one before.

    `make` writes a file and compares its raw tensors; `measure` adds the metric and is slow: a file with a larger error
    than one that failed is not measured, unless it is the last of `counts`. Returns the points in order.
    """
    points: list[Point] = []

    def attempt(count: int, last: bool) -> bool:
        point = make(count)
        hopeless = any(failed.metric is not None and point.error >= failed.error for failed in points)
        points.append(point if hopeless and not last else measure(point))
        return points[-1].keeps(minimum)

    low, high = -1, None  # more than `low` layers must be float, `high` are enough
    for count in counts:
        if attempt(count, count == counts[-1]):
            high = count
            break
        low = count
    while high is not None and high - low > 1 and len(points) < MAX_TRIES:
        middle = (low + high) // 2
        low, high = (low, middle) if attempt(middle, True) else (middle, high)
    return points
