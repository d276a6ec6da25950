"""Devices by name."""

import torch

from featherbone.errors import BadOption


def find_device(name: str) -> torch.device:
    """The device called `name`; auto is CUDA, else MPS, else the CPU. Raises `BadOption` where it is missing."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(name.partition(":")[0], False):
        raise BadOption(f"device {name!r} is not available; there is {', '.join(d for d in available if available[d])}")
    return torch.device(name)
