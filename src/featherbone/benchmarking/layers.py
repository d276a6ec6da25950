"""Where the time of a network goes, module by module."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn

from featherbone.benchmarking.models import as_table

TOP = 20
"""Layers that a table tells of."""


@dataclass(frozen=True)
class LayerTime:
    """A module's own time: what passes in it and in none of its children."""

    layer: str
    """Name of the module; empty for the network itself."""
    kind: str
    milliseconds: float
    share: float
    """Of all modules' times."""


@dataclass(frozen=True)
class LayerTable:
    """The slowest layers of one model at one size, the slowest first."""

    model: str
    batch: int
    height: int
    width: int
    milliseconds: float
    """Of all layers; watching them costs time, too, the more the smaller they are."""
    layers: tuple[LayerTime, ...]

    def to_text(self, markdown: bool) -> str:
        """A title and a table."""
        rows = [
            (one.layer or "(outside of any layer)", one.kind, f"{one.milliseconds:.3f}", f"{one.share:.1%}")
            for one in self.layers
        ]
        title = f"{self.model}, {self.height}x{self.width}, batch {self.batch}: {self.milliseconds:.1f} ms by layer"
        return f"{title}\n\n{as_table([('layer', 'kind', 'ms', 'share'), *rows], markdown)}"


def layer_times(net: nn.Module, call: Callable[[], object], repeats: int, device: torch.device) -> list[LayerTime]:
    """The own time of every module that `call` reaches, medians of `repeats` calls, the slowest first.

    Operators that are no modules count for the module that calls them.
    """
    names = {id(module): (name, type(module).__name__) for name, module in net.named_modules()}
    runs: list[dict[int, float]] = []
    stack: list[list[float]] = []  # of the modules that are being run: when they began, and their children's seconds

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return perf_counter()

    def enter(module: nn.Module, given: Any) -> None:
        stack.append([now(), 0.0])

    def leave(module: nn.Module, given: Any, made: Any) -> None:
        begin, inside = stack.pop()
        took = now() - begin
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
