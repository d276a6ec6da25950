"""Raw tensors of a task by name, as an exported file gives them, and back."""

from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn


def flatten(raw: Any, name: str = "") -> dict[str, Tensor]:
    """Tensors by the fields and places that lead to them, as `logits_0`; a tensor alone is called `logits`."""
    if isinstance(raw, Tensor):
        return {name or "logits": raw}
    parts: Iterable[tuple[Any, Any]] = raw._asdict().items() if hasattr(raw, "_asdict") else enumerate(raw)
    return {key: x for part, value in parts for key, x in flatten(value, f"{name}_{part}".lstrip("_")).items()}


def rebuild(kind: Any, values: Mapping[str, Tensor], name: str = "") -> Any:
    """What `flatten` took apart: a tensor, or a named tuple of type `kind`; of a union its last member."""
    if kind is Tensor:
        return values[name or "logits"]
    if get_origin(kind) is tuple:
        return tuple(values[f"{name}_{i}"] for i in range(sum(key.startswith(f"{name}_") for key in values)))
    if get_origin(kind) is not None or not hasattr(kind, "_fields"):
        return rebuild(get_args(kind)[-1], values, name)
    hints = get_type_hints(kind)
    return kind(*(rebuild(hints[field], values, f"{name}_{field}".lstrip("_")) for field in kind._fields))


class Flat(nn.Module):
    """A task whose raw tensors come as a plain tuple: what an exporter takes."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task = task

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Normalised images (B, 3, H, W) to the tensors of `flatten`, in its order."""
        return tuple(flatten(self.task(images)).values())

    def names(self, images: Tensor) -> list[str]:
        """Their names."""
        with torch.inference_mode():
            return list(flatten(self.task(images)))
