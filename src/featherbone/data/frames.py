"""Images of any size on a canvas of one size, and back."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data import str_to_pil_interp
from torch import Tensor

from featherbone.data.bands import AnyImage, Bands

IN_IMAGE = {
    "x": "clip(x * image_width / inner_width, 0, image_width)",
    "y": "clip(y * image_height / inner_height, 0, image_height)",
    "dropped": "x2 <= x1 or y2 <= y1",
}
"""`Frame.to_image` in the terms of `featherbone.json`: from boxes on the input to boxes in the image."""


OPENCV = "opencv_bilinear"
"""Name of the interpolation of `resize_as_opencv`."""
ONE = 2048
"""The weight 1 in its fixed point."""


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


def inner_sizes(images: Tensor) -> Tensor:
    """Height and width of the scaled image on each input (B, C, H, W), int64 (B, 2); the padding behind it is all 0."""
    shown = (images != 0).any(1)
    sides = (shown.any(2), shown.any(1))  # rows, columns
    ends = [(side * torch.arange(1, side.shape[1] + 1, device=side.device)).amax(1) for side in sides]
    return torch.stack(ends, 1)


def scale_image(image: AnyImage, frame: Frame, interpolation: str = "bilinear") -> Tensor:
    """The image at the scale of the frame, without padding: (3, h, w), uint8; `interpolation` as in `Preprocessing`.

    Of `Bands` it is (C, h, w), float32.
    """
    if isinstance(image, Bands):
        return image.resized(*frame.inner, interpolation)
    size = (frame.inner_width, frame.inner_height)
    if image.size == size:
        scaled = np.array(image)
    elif interpolation == OPENCV:
        scaled = resize_as_opencv(np.asarray(image), *frame.inner)
    else:
        scaled = np.array(image.resize(size, str_to_pil_interp(interpolation)))
    return torch.from_numpy(scaled).permute(2, 0, 1)


def resize_as_opencv(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The image (H, W, C) at another size, equal to the bit to OpenCV's INTER_LINEAR: bilinear, not antialiased.

    Weights are integers, of which 2048 are 1; sums along rows lose four bits, their products sixteen, the result two.
    """
    places = [_opencv_taps(*sides) for sides in ((image.shape[0], height), (image.shape[1], width))]
    (y, below), (x, right) = places
    right = np.where((x < 0) | (x >= image.shape[1] - 1), 0, right)  # columns beyond the borders repeat; rows mix
    columns = [np.clip(x + i, 0, image.shape[1] - 1) for i in (0, 1)]
    rows = [np.clip(y + i, 0, image.shape[0] - 1) for i in (0, 1)]
    pixels = image.astype(np.int32)
    sums = (pixels[:, columns[0]] * (ONE - right)[:, None] + pixels[:, columns[1]] * right[:, None]) >> 4
    below = below[:, None, None]
    mixed = ((ONE - below) * sums[rows[0]] >> 16) + (below * sums[rows[1]] >> 16)
    return ((mixed + 2) >> 2).clip(0, 255).astype(np.uint8)


def _opencv_taps(length: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """For each of `new` positions the pixel before it in a line of `length`, and the weight of the pixel after it."""
    places = ((np.arange(new) + 0.5) * (length / new) - 0.5).astype(np.float32)
    before = np.floor(places).astype(np.int64)
    return before, np.rint((places - before.astype(np.float32)) * np.float32(ONE)).astype(np.int32)
