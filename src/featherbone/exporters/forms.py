"""Forms of a task for exported files: flat outputs, normalisation inside, NMS inside."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from featherbone.data.frames import inner_sizes
from featherbone.data.transforms import Preprocessing
from featherbone.heads.box_decoder import first_image, picked_objects
from featherbone.ops.boxes import FOUND, Found, Picked


def flatten(raw: Any, name: str = "") -> dict[str, Tensor]:
    """Raw tensors by the fields and indices that lead to them, such as `logits_0`; a single tensor is `logits`."""
    if isinstance(raw, Tensor):
        return {name or "logits": raw}
    parts: Iterable[tuple[Any, Any]] = raw._asdict().items() if hasattr(raw, "_asdict") else enumerate(raw)
    return {key: x for part, value in parts for key, x in flatten(value, f"{name}_{part}".lstrip("_")).items()}


def rebuild(kind: Any, values: Mapping[str, Tensor], name: str = "") -> Any:
    """The inverse of `flatten`: a tensor, or a named tuple of type `kind`; for a union its last member."""
    if kind is Tensor:
        return values[name or "logits"]
    if get_origin(kind) is tuple:
        return tuple(values[f"{name}_{i}"] for i in range(sum(key.startswith(f"{name}_") for key in values)))
    if get_origin(kind) is not None or not hasattr(kind, "_fields"):
        return rebuild(get_args(kind)[-1], values, name)
    hints = get_type_hints(kind)
    return kind(*(rebuild(hints[field], values, f"{name}_{field}".lstrip("_")) for field in kind._fields))


class Flat(nn.Module):
    """A task whose raw tensors are a plain tuple, as exporters need it."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task = task

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, C, H, W) to the tensors of `flatten`, in its order."""
        return tuple(flatten(self.task(images)).values())

    def names(self, images: Tensor) -> list[str]:
        with torch.inference_mode():
            return list(flatten(self.task(images)))


class Picking(nn.Module):
    """A detector whose network ends after NMS, with a fixed number of objects per image."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task = task

    def forward(self, images: Tensor) -> Picked:
        """Normalised images (B, C, H, W) to the objects in them."""
        return self.task.decoder.head.pick(self.task(images), inner_sizes(images))


@dataclass(frozen=True)
class PickedDecoder:
    """Objects from the raw tensors of `Picking`, with scores above `score`."""

    score: float

    raw: ClassVar[Any] = Picked

    def __call__(self, raw: Picked, sizes: Tensor, score: float | None = None) -> list[Found]:
        """The objects of each image with a score above `score`, in pixels of the network's input, cut at `sizes`."""
        return picked_objects(raw, self.score if score is None else score)

    def tensors(self, raw: Picked, sizes: Tensor) -> dict[str, Tensor]:
        return first_image(raw)

    def describe(self) -> dict[str, Any]:
        """What a program needs to find objects in the raw tensors."""
        return {"kind": "found", "score": self.score, **FOUND}


class Normalising(nn.Module):
    """A task whose network begins with bytes: RGB (B, H, W, 3), or RGBA where an image is placed on a canvas.

    Where alpha is 0 there is no image, and the network sees 0.
    """

    def __init__(self, task: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.task = task
        self.scale: Tensor
        self.shift: Tensor
        mean, std = (torch.tensor(values) for values in (preprocessing.mean, preprocessing.std))
        self.register_buffer("scale", 1 / (255 * std)[:, None, None], persistent=False)
        self.register_buffer("shift", (mean / std)[:, None, None], persistent=False)

    def forward(self, pixels: Tensor) -> Any:
        """Bytes (B, H, W, 3 or 4), uint8, to the raw tensors of the task."""
        values = pixels.float().permute(0, 3, 1, 2)  # TensorRT has no other operator for bytes
        images = values[:, :3] * self.scale - self.shift
        return self.task(images if pixels.shape[3] == 3 else images * (values[:, 3:] > 0))


def to_bytes(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalised images (B, 3, H, W) as the bytes that `Normalising` takes: RGB, or RGBA with the rule "fit"."""
    mean, std = (images.new_tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    pixels = ((images * std + mean) * 255).round().clamp(0, 255)
    if preprocessing.rule == "fit":
        inside = (images != 0).any(1, keepdim=True)
        pixels = torch.cat((pixels * inside, 255.0 * inside), 1)
    return pixels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
