"""Devices by name."""

import torch

from featherbone.errors import BadOption


def find_device(name: str | torch.device) -> torch.device:
    """The device called `name`, such as cpu, mps, cuda or cuda:1; auto is CUDA, else MPS, else the CPU.

    Raises `BadOption` for one that this machine does not have.
    """
    counts = count_devices()
    kind, _, index = str(name).partition(":")
    if name == "auto":
        return torch.device(next(kind for kind, count in counts.items() if count))
    if (index and not index.isdecimal()) or int(index or 0) >= counts.get(kind, 0):
        have = [kind if count == 1 else f"{kind}:0 to {kind}:{count - 1}" for kind, count in counts.items() if count]
        raise BadOption(f"device {str(name)!r} is not available; this machine has {', '.join(have)}; pass one, or auto")
    return torch.device(str(name))


def count_devices() -> dict[str, int]:
    """The number of devices of each kind, the preferred kind first."""
    return {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
