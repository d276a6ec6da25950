"""Forms of a task that take more of the work into the network, for exported files."""

from typing import Any

import torch
from torch import Tensor, nn

from featherbone.data.transforms import Preprocessing
from featherbone.ops.boxes import Picked


class Picking(nn.Module):
    """A detector whose network ends behind NMS: at most `limit` objects of each image, as `Picked`."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task = task

    def forward(self, images: Tensor) -> Picked:
        """Normalised images (B, 3, H, W) to what is found in them."""
        return self.task.decoder.head.pick(self.task(images))


class Normalising(nn.Module):
    """A task whose network begins with bytes: RGB (B, H, W, 3), or where an image is laid on a canvas, RGBA.

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
        """Bytes (B, H, W, 3 or 4), uint8, to what the task gives."""
        values = pixels.permute(0, 3, 1, 2).float()
        images = values[:, :3] * self.scale - self.shift
        return self.task(images if pixels.shape[3] == 3 else images * (values[:, 3:] > 0))


def to_bytes(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalised images (B, 3, H, W) of bytes as `Normalising` takes them: RGB, or RGBA by the rule "fit"."""
    mean, std = (images.new_tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    pixels = ((images * std + mean) * 255).round().clamp(0, 255)
    if preprocessing.rule == "fit":
        seen = (images != 0).any(1, keepdim=True)
        pixels = torch.cat((pixels * seen, 255.0 * seen), 1)
    return pixels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
