"""Images of any size on a canvas of one size, and back."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

IN_IMAGE = {
    "x": "clip(x * image_width / inner_width, 0, image_width)",
    "y": "clip(y * image_height / inner_height, 0, image_height)",
    "dropped": "x2 <= x1 or y2 <= y1",
}
"""`Frame.to_image` in the terms of `featherbone.json`: from boxes on the input to boxes in the image."""


@dataclass(frozen=True)
class Frame:
    """The place of an image of `height` x `width` on the network's input: scaled, in the upper left corner.

    The scaled image is `inner_height` x `inner_width`; the rest of `canvas_height` x `canvas_width`, right of it
    and below, is padding.
    """

    height: int
    width: int
    inner_height: int
    inner_width: int
    canvas_height: int
    canvas_width: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.height, self.width

    @property
    def inner(self) -> tuple[int, int]:
        """Height and width of the scaled image."""
        return self.inner_height, self.inner_width

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the input."""
        return self.canvas_height, self.canvas_width

    def to_image(self, boxes: Tensor) -> Tensor:
        """Boxes (n, 4) in pixels of the input, in pixels of the image, clipped to it."""
        x = (boxes[:, 0::2] * (self.width / self.inner_width)).clamp(0, self.width)
        y = (boxes[:, 1::2] * (self.height / self.inner_height)).clamp(0, self.height)
        return torch.stack((x, y), 2).flatten(1)


def fit(height: int, width: int, canvas_height: int, canvas_width: int) -> Frame:
    """The frame of an image scaled, with its proportions, to touch two borders of the canvas."""
    scale = min(canvas_height / height, canvas_width / width)
    inner = min(max(round(height * scale), 1), canvas_height), min(max(round(width * scale), 1), canvas_width)
    return Frame(height, width, *inner, canvas_height, canvas_width)


def scale_image(image: Image.Image, frame: Frame, resample: Image.Resampling = Image.Resampling.BILINEAR) -> Tensor:
    """The image at the scale of the frame, without padding: (3, h, w), uint8."""
    size = (frame.inner_width, frame.inner_height)
    scaled = image if image.size == size else image.resize(size, resample)
    return torch.from_numpy(np.array(scaled)).permute(2, 0, 1)
