"""Images that cannot be read: found when they are read, replaced in training, omitted in evaluation."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from featherbone.data.bands import AnyImage
from featherbone.data.findings import many
from featherbone.data.sampling import spread
from featherbone.data.split import Split
from featherbone.errors import BadData, BadImage

MAX_SHARE, MAX_COUNT = 0.01, 4
"""The run stops if more than this share of the images of a split, and more than this number, cannot be read."""
TRIES = 100
"""Maximum number of replacements that are tried for an image that cannot be read."""
FIRST = 5
"""Number of images that are tried before a run starts, because none might be readable in the evaluation."""


class Unreadable(BadImage):
    """An image that cannot be read, in an evaluation."""


class Reader:
    """Reads the images of a split with their annotations, and records which cannot be read.

    `channels` are those of `Split.image`.
    """

    def __init__(self, images: Split[Any], seed: int, training: bool, channels: int | None = None) -> None:
        self.images, self.seed, self.training, self.channels = images, seed, training, channels
        self.known: dict[int, str] = {}
        """Error message of each image that could not be read, by index."""
        self.met: dict[str, str] = {}
        """Error messages since the last `take_met`, by the name of the image."""

    def __call__(self, epoch: int, index: int) -> tuple[AnyImage, Any]:
        """An image and its annotations.

        In training, if either cannot be read, the first readable image of a sequence derived from (seed, epoch, index)
        replaces it; `BadData` is raised if none is readable. In evaluation, `Unreadable` is raised.
        """
        for place in self._places(epoch, index):
            if place not in self.known:
                try:
                    return self.images.read(place, self.channels)
                except (BadImage, BadData) as error:
                    self.known[place] = str(error)
            self.met[self.images.name(place)] = self.known[place]
            if not self.training:
                raise Unreadable(self.known[place])
        raise BadData(
            f"none of {1 + TRIES} images can be read; the first: {self.known[index]}; see: featherbone doctor"
        )

    def take_met(self) -> dict[str, str]:
        """Error messages of the images that could not be read since the last call, by name."""
        met, self.met = self.met, {}
        return met

    def _places(self, epoch: int, index: int) -> Iterator[int]:
        yield index
        yield from np.random.default_rng((self.seed, epoch, index)).integers(len(self.images), size=TRIES).tolist()


class Skipped:
    """The images of a split that could not be read."""

    def __init__(self, data: Path, split: str, total: int) -> None:
        self.data, self.split, self.total = data, split, total
        self.reasons: dict[str, str] = {}
        """Error messages, by the name of the image."""

    def add(self, met: Mapping[str, str]) -> list[str]:
        """Add images and return the error messages of new ones. Raises `BadData` if there are too many."""
        new = [reason for name, reason in met.items() if name not in self.reasons]
        self.reasons |= met
        count = len(self.reasons)
        if count > max(MAX_SHARE * self.total, MAX_COUNT):
            raise BadData(
                f"{self.data}: {count} of {self.total:,} {self.split} images cannot be read, more than "
                f"{MAX_SHARE:.0%}, as {next(iter(self.reasons.values()))}; all with pictures: featherbone doctor "
                f"{self.data}"
            )
        return new


def require_readable(images: Split[Any], data: Path, split: str, channels: int | None = None) -> None:
    """Raise `BadData` if none of `FIRST` images spread over the split can be read; stops at the first readable one."""
    reasons = []
    for index in spread(len(images), FIRST):
        try:
            images.read(index, channels)
            return
        except (BadImage, BadData) as error:
            reasons.append(str(error))
    raise BadData(
        f"{data}: none of {many(reasons, split + ' image')} tried can be read; the first: {reasons[0]}; all with "
        f"pictures: featherbone doctor {data}"
    )
