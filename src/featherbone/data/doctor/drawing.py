"""Small pictures of images with their annotations, for the examples of findings."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from featherbone.data.map_files import palette
from featherbone.ops.label_maps import IGNORE

SIDE = 220
"""Longer side of a picture in pixels."""
GREY, RED, ORANGE, BLUE = (128, 128, 128), (235, 40, 40), (255, 165, 0), (40, 110, 255)


def to_jpeg(image: Image.Image) -> bytes:
    """The JPEG file of a small picture."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def draw_map(image: Image.Image, colours: NDArray[np.integer], mask: NDArray[np.bool_] | None) -> Image.Image:
    """An image blended with the palette colours (H, W) of its map, or darkened except for a mask (H, W) in red."""
    height, width = colours.shape
    size = _size(width, height)
    small = image.resize(size, Image.Resampling.BICUBIC)
    if mask is None:
        above = Image.fromarray(np.array(palette(IGNORE), np.uint8)[colours.clip(0, IGNORE)])
        return Image.blend(small, above.resize(size, Image.Resampling.NEAREST), 0.5)
    inside = _grey(mask).resize(size, Image.Resampling.BOX)
    small = small.point(lambda value: 0.45 * value)
    small.paste(RED, mask=inside.point(lambda value: 255 * (value > 0)))
    return small


def draw_objects(
    image: Image.Image, boxes: NDArray[np.float64], masks: Sequence[NDArray[np.bool_]] = (), whole: bool = False
) -> Image.Image:
    """The part of an image around `boxes` (n, 4), or the whole, with boxes in red and orange and masks in blue.

    What is beyond the image is grey.
    """
    boxes = np.nan_to_num(boxes)
    left, top, right, bottom = region = _region(image, boxes, whole)
    part = Image.new("RGB", (right - left, bottom - top), GREY)
    part.paste(image, (-left, -top))
    scale, size = SIDE / max(part.size), _size(*part.size)
    part = part.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    for mask in masks:
        inside = _grey(mask).crop(region).resize(size).point(lambda value: 255 * (value > 127))
        core = inside.filter(ImageFilter.MinFilter(5))
        part.paste(BLUE, mask=inside.point(lambda value: value * 70 // 255))
        inside.paste(0, mask=core)
        part.paste(BLUE, mask=inside)
    pen = ImageDraw.Draw(part)
    ends = np.array([size[0] - 1, size[1] - 1] * 2)
    for i, box in reversed(list(enumerate(boxes))):
        x1, y1, x2, y2 = ((box - (left, top, left, top)) * scale).clip(0, ends).tolist()
        x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
        pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="black", width=4)
        pen.rectangle((x1, y1, x2, y2), outline=RED if whole or i == 0 else ORANGE, width=2)
    return part


def _size(width: int, height: int) -> tuple[int, int]:
    """Width and height of the picture of a part of an image."""
    scale = SIDE / max(width, height)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def _grey(mask: NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)


def _region(image: Image.Image, boxes: NDArray[np.float64], whole: bool) -> tuple[int, int, int, int]:
    """x1 y1 x2 y2 of the boxes with a margin, at least 48 pixels wide and high, or of the image and its boxes.

    At most a quarter of the image's size is added beyond its border.
    """
    if not len(boxes):
        return 0, 0, image.width, image.height
    size = np.array(image.size, np.float64)
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    if whole:
        low, high = np.minimum(low, 0), np.maximum(high, size)
    else:
        margin = max(float((high - low).max()) / 2, 24)
        low, high = low - margin, high + margin
    corners = np.rint(np.clip([low, high], -size / 4, 1.25 * size)).astype(int)
    (left, top), (right, bottom) = corners.tolist()
    return left, top, max(right, left + 1), max(bottom, top + 1)
