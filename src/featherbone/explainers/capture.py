"""The inputs of modules while a network runs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def watch(modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, tuple[Any, ...]]]:
    """A dict that receives the positional inputs of each module as it runs; the hooks are removed at the end."""
    seen: dict[nn.Module, tuple[Any, ...]] = {}
    handles = [module.register_forward_pre_hook(seen.__setitem__) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def inputs_of(modules: Iterable[nn.Module], net: nn.Module, x: Tensor) -> dict[nn.Module, tuple[Any, ...]]:
    """The positional inputs of the modules when `net` runs on x (B, 3, H, W)."""
    with watch(modules) as seen:
        net(x)
    return seen
