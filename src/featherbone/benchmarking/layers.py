"""Time of a network by module."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

from featherbone.benchmarking.clock import now
from featherbone.benchmarking.models import as_table

TOP = 20
"""Maximum number of layers in a table."""


@dataclass(frozen=True)
class LayerTime:
    """Time of a module without its children."""

    layer: str
    """Name of the module; empty for the network itself."""
    kind: str
    milliseconds: float
    share: float
    """Share of all modules' times."""


@dataclass(frozen=True)
class LayerTable:
    """The slowest layers of one model at one size, slowest first."""

    model: str
    batch: int
    height: int
    width: int
    milliseconds: float
    """Sum of all layers; timing adds to it, more for small layers."""
    layers: tuple[LayerTime, ...]

    def to_text(self, markdown: bool) -> str:
        """A title and a table."""
        rows = [
            (one.layer or "(outside of layers)", one.kind, f"{one.milliseconds:.3f}", f"{one.share:.1%}")
            for one in self.layers
        ]
        title = f"{self.model}, {self.height}x{self.width}, batch {self.batch}: {self.milliseconds:.1f} ms by layer"
        return f"{title}\n\n{as_table([('layer', 'kind', 'ms', 'share'), *rows], markdown)}"


def layer_times(net: nn.Module, call: Callable[[], object], repeats: int, device: torch.device) -> list[LayerTime]:
    """The time of every module that `call` reaches, medians of `repeats` calls, slowest first.

    Operators outside of modules count for the module that calls them.
    """
    names = {id(module): (name, type(module).__name__) for name, module in net.named_modules()}
    runs: list[dict[int, float]] = []
    stack: list[list[float]] = []  # of the running modules: start, and seconds of children

    def enter(module: nn.Module, given: Any) -> None:
        stack.append([now(device), 0.0])

    def leave(module: nn.Module, given: Any, made: Any) -> None:
        begin, inside = stack.pop()
        took = now(device) - begin
        runs[-1][id(module)] = runs[-1].get(id(module), 0.0) + took - inside
        if stack:
            stack[-1][1] += took

    with ExitStack() as hooks:
        for module in net.modules():
            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        for _ in range(1 + repeats):
            runs.append({})
            call()
    times = {key: 1e3 * median(run.get(key, 0.0) for run in runs[1:]) for key in runs[-1]}
    total = sum(times.values())
    found = [LayerTime(*names[key], took, took / total) for key, took in times.items()]
    return sorted(found, key=lambda one: -one.milliseconds)
