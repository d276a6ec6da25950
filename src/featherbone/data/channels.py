"""How many channels the images of a data set have, and how their values are distributed."""

from pathlib import Path
from typing import Any

import numpy as np

from featherbone.data.bands import count_channels, read_bands
from featherbone.data.sampling import spread
from featherbone.data.split import Split
from featherbone.errors import BadData, BadImage
from featherbone.progress import track

TRIED = 5
"""Images whose files are opened until one states its channels."""
MEASURED = 256
"""Maximum number of images on which mean and standard deviation are measured."""


def find_channels(images: Split[Any], data: Path) -> int | None:
    """The channels of the first image that can be opened, as `count_channels`; None without images.

    Raises `BadData` where none of `TRIED` images can be opened.
    """
    reasons = []
    for index in range(min(len(images), TRIED)):
        try:
            return count_channels(images.file(index), images.name(index))
        except BadImage as error:
            reasons.append(str(error))
    if reasons:
        raise BadData(f"{data}: none of {len(reasons)} images tried can be read; the first: {reasons[0]}")
    return None


def measure(images: Split[Any], channels: int, data: Path) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Mean and standard deviation of each channel, and of how many images: of up to `MEASURED` spread over a split.

    Every image counts the same, whatever its size. A channel with one value everywhere has the standard deviation 1.
    Raises `BadData` where none of the images can be read.
    """
    first, second, reasons = [], [], []
    chosen = spread(len(images), MEASURED)
    for index in track(chosen, "measuring channels", len(chosen)):
        try:
            values = read_bands(images.file(index), channels, images.name(index)).values.astype(np.float64)
        except BadImage as error:
            reasons.append(str(error))
            continue
        first.append(values.mean((0, 1)))
        second.append(values.var((0, 1)))
    if not first:
        raise BadData(f"{data}: none of {len(chosen)} training images can be read; the first: {reasons[0]}")
    std = np.sqrt(np.mean(second, 0) + np.var(first, 0))
    means = np.mean(first, 0)
    constant = std <= np.maximum(np.abs(means) * 1e-6, 1e-6)  # rounding errors, below what float32 resolves
    return tuple(means.tolist()), tuple(np.where(constant, 1.0, std).tolist()), len(first)
