"""Measurements of a worker: time, by layer too, memory, and the rates of matrix products and copies."""

import ctypes
import gc
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn

from featherbone.benchmarking.table import LayerTime

SHAPES = {"cpu": (512, 1024, 1536), "cuda": (2048, 4096, 8192)}
"""Sides of the square matrices that are multiplied."""
COPIED = 2**27
"""Bytes of a copy, more than caches hold."""
TURN_SECONDS, TURN_CALLS = 0.1, 5
"""Maximum duration of a turn with several timed calls, and maximum number of them."""


def now(device: torch.device) -> float:
    """Seconds on the clock, when the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


def turn(call: Callable[[], object], device: torch.device) -> list[float]:
    """Milliseconds of a few calls after an untimed one, which fills the caches."""

    def seconds() -> float:
        start = now(device)
        call()
        return now(device) - start

    count = max(1, min(TURN_CALLS, int(TURN_SECONDS / seconds())))
    return [1e3 * seconds() for _ in range(count)]


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


class Memory:
    """Bytes that this process holds, in the memory of the GPU or in RAM; None if unknown."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def held(self) -> int | None:
        """At present, without what allocators keep for later."""
        gc.collect()
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        with suppress(OSError, AttributeError):  # not the GNU library
            ctypes.CDLL(None).malloc_trim(0)
        return _status("VmRSS")

    def reset(self) -> None:
        """Forget earlier peaks, if the system allows it."""
        self.held()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int | None:
        """Maximum since `reset`."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else _status("VmHWM")


def _status(name: str) -> int | None:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


class Limits:
    """The machine's limits in one precision."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.squares = [torch.randn(side, side, device=device, dtype=dtype) for side in SHAPES[device.type]]
        self.source = torch.zeros(COPIED, dtype=torch.uint8, device=device)
        self.target = torch.zeros_like(self.source)

    def about(self) -> tuple[int, str]:
        """Threads, and the name of the device."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return torch.get_num_threads(), name

    @torch.inference_mode()
    def measure(self) -> tuple[float, float]:
        """GFLOP/s of the fastest square matrix product, and GB/s of a large copy, read and written bytes counted."""
        products = [2e-6 * len(one) ** 3 / min(turn(partial(torch.mm, one, one), self.device)) for one in self.squares]
        copy = min(turn(lambda: self.target.copy_(self.source), self.device))
        return max(products), 2e-6 * COPIED / copy
