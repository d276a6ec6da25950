"""Measurements of a worker: time, memory, and the rates of matrix products and copies."""

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter

import torch

SHAPES = {"cpu": (512, 1024, 1536), "cuda": (2048, 4096, 8192)}
"""Sides of the square matrices that are multiplied."""
COPIED = 2**27
"""Bytes of a copy, more than caches hold."""
TURN_SECONDS, TURN_CALLS = 0.1, 5
"""Maximum duration of a turn with several timed calls, and maximum number of them."""


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter() - start


def turn(call: Callable[[], object], device: torch.device) -> list[float]:
    """Milliseconds of a few calls after an untimed one, which fills the caches."""
    first = seconds(call, device)
    count = max(1, min(TURN_CALLS, int(TURN_SECONDS / first)))
    return [1e3 * seconds(call, device) for _ in range(count)]


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

    def measure(self) -> tuple[float, float]:
        """GFLOP/s of the fastest square matrix product, and GB/s of a large copy, read and written bytes counted."""
        with torch.inference_mode():
            products = [
                2e-6 * len(one) ** 3 / min(turn(lambda one=one: torch.mm(one, one), self.device))  # type: ignore[misc]
                for one in self.squares
            ]
            copy = min(turn(lambda: self.target.copy_(self.source), self.device))
        return max(products), 2e-6 * COPIED / copy
