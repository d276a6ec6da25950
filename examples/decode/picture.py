"""A picture as the network's input, by `input` of featherbone.json. Needs NumPy and Pillow only."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def read(path: str) -> Image.Image:
    """An 8-bit picture, upright by its EXIF orientation, in RGB; transparent parts are white."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def prepare(image: Image.Image, about: dict[str, Any]) -> tuple[NDArray[Any], tuple[int, int]]:
    """The network's input, a batch of one, and the height and width of the picture on it."""
    rules = about["input"]
    height, width = rules["height"], rules["width"]
    inner = resized_size(image.height, image.width, rules)
    image = image.resize(inner[::-1], FILTERS[rules["resize"]["filter"]])
    if rules["placement"] == "centre":  # cut the input's size out
        left, top = round((inner[1] - width) / 2), round((inner[0] - height) / 2)
        image = image.crop((left, top, left + width, top + height))
        inner = height, width
    pixels = np.asarray(image)
    if rules["normalised_by"] == "file":
        channels = np.full((*inner, len(rules["channels"])), 255, np.uint8)
        channels[..., :3] = pixels
        canvas = np.zeros((height, width, len(rules["channels"])), np.uint8)  # alpha is 0 where there is no picture
        canvas[: inner[0], : inner[1]] = channels
        return canvas[None], inner
    mean, std = np.float32(rules["mean"]), np.float32(rules["std"])
    values = np.zeros((height, width, 3), np.float32)  # padding is 0 after normalisation
    values[: inner[0], : inner[1]] = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return values.transpose(2, 0, 1)[None].copy(), inner


def resized_size(height: int, width: int, rules: dict[str, Any]) -> tuple[int, int]:
    """Height and width to which a picture is resized."""
    high, wide = rules["resize"]["height"], rules["resize"]["width"]
    if rules["rule"] == "fit":  # all of it fits; Python rounds halves to even
        scale = min(high / height, wide / width)
        return min(max(round(height * scale), 1), high), min(max(round(width * scale), 1), wide)
    if rules["resize"]["rounding"] == "down":
        short = min(height, width)
        return int(high * height / short), int(wide * width / short)
    ratio = min(height / high, width / wide)
    return round(height / ratio), round(width / ratio)
