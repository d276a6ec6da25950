"""One split of a data set, whatever its format and its task."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featherbone.data.images import read_file, read_image, upright_size
from featherbone.ops.label_maps import IGNORE

T = TypeVar("T")


class PanopticSegment(NamedTuple):
    """One annotated segment of a panoptic map."""

    label: int
    """Class index; -1 for an unknown class."""
    crowd: bool = False
    """Whether it is a group of things that was not separated."""


@dataclass(frozen=True, eq=False)
class PanopticTruth:
    """The annotated segments of one image."""

    ids: NDArray[np.int32]
    """(H, W): i + 1 on the pixels of `segments[i]`, 0 on unlabelled pixels."""
    segments: tuple[PanopticSegment, ...]

    def labels(self) -> NDArray[np.uint8]:
        """Class indices (H, W), `IGNORE` on unlabelled pixels."""
        return np.array([IGNORE, *(segment.label for segment in self.segments)], np.int64).astype(np.uint8)[self.ids]


class Split(ABC, Generic[T]):
    """The images of one split and their annotations, both read when they are asked for.

    `T` is the type of the annotations of one image: an `int` label for classification, `Objects` for detection and
    instance segmentation, class indices (H, W) uint8 with 255 where unlabelled for semantic segmentation, and
    `PanopticTruth` for panoptic segmentation.
    """

    classes: tuple[str, ...]
    """Class names in the order of their indices."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Name of the image in messages, usually its path below the data folder."""

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """The image file as it is stored. Raises `BadImage`."""

    @abstractmethod
    def truth(self, index: int) -> T:
        """The annotations of the image. Raises `BadData` or `BadImage`."""

    @abstractmethod
    def take(self, indices: Sequence[int]) -> Self:
        """A split with only the images of `indices`, in that order."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the names and annotations of all images, independent of where the folder is."""

    def image(self, index: int) -> Image.Image:
        """The upright image in RGB. Raises `BadImage`."""
        return read_image(self.encoded(index), self.name(index))

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the upright image, from the head of its file. Raises `BadImage`."""
        return upright_size(self.encoded(index), self.name(index))

    def check(self, index: int) -> None:
        """Raise `BadImage` or `BadData` where the image cannot be used."""
        self.image(index)

    def read(self, index: int) -> Image.Image:
        """The same as `image`."""
        return self.image(index)


class FileSplit(Split[T]):
    """A split whose images are files below `root`, named by their paths."""

    root: Path

    def encoded(self, index: int) -> bytes:
        return read_file(self.root / self.name(index), self.name(index))

    def image(self, index: int) -> Image.Image:
        return read_image(self.root / self.name(index), self.name(index))

    def size(self, index: int) -> tuple[int, int]:
        return upright_size(self.root / self.name(index), self.name(index))
