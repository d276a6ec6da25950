"""From the logits of SegFormer and Semantic FPN to a map of classes. `about` is featherbone.json."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def decode(
    outputs: dict[str, Any], about: dict[str, Any], size: tuple[int, int], inner: tuple[int, int]
) -> NDArray[np.uint8]:
    """The class of every pixel of an image of `size` (height, width), `inner` on the input."""
    return label_map(outputs["logits"][0], about, size, inner).astype(np.uint8)


def label_map(logits: Any, about: dict[str, Any], size: tuple[int, int], inner: tuple[int, int]) -> NDArray[np.int64]:
    """The channel of the highest score (K, h, w) of each pixel of an image."""
    scores = resize(logits, about["input"]["height"], about["input"]["width"])
    return resize(scores[:, : inner[0], : inner[1]], *size).argmax(0)  # the first of equals


def resize(maps: Any, height: int, width: int) -> NDArray[np.float64]:
    """Maps (K, h, w) at another size: bilinear between the centres of pixels, no antialiasing, edges repeated."""
    for axis, length in ((1, height), (2, width)):
        last = maps.shape[axis] - 1
        places = np.clip((np.arange(length) + 0.5) * (last + 1) / length - 0.5, 0, last)
        low = places.astype(int)
        part = (places - low).reshape((-1, 1) if axis == 1 else -1)
        maps = maps.take(low, axis) * (1 - part) + maps.take(np.minimum(low + 1, last), axis) * part
    return maps
