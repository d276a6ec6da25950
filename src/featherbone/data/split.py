"""One split of a data set, whatever its format and its task."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featherbone.data.findings import Finding, listed
from featherbone.data.images import read_file, read_image, upright_size
from featherbone.errors import BadData, BadImage
from featherbone.ops.label_maps import IGNORE

T = TypeVar("T")


class PanopticSegment(NamedTuple):
    """One annotated segment of a panoptic map."""

    label: int
    """Class index; -1 for an unknown class."""
    crowd: bool = False
    """Whether it is a group of things that was not separated."""
    id: int = 0
    """Its value on the map as it is stored."""
    stated: Mapping[str, Any] = {}
    """`bbox`, `area` and `category_id`, where the file states them."""


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

    def joint_fingerprint(self, val: "Split[Any]") -> str:
        """A hash of these training images and their validation images."""
        return sha256(f"{self.fingerprint()} {val.fingerprint()}".encode()).hexdigest()[:16]

    def image(self, index: int) -> Image.Image:
        """The upright image in RGB. Raises `BadImage`."""
        return read_image(self.encoded(index), self.name(index))

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the upright image, from the head of its file. Raises `BadImage`."""
        return upright_size(self.encoded(index), self.name(index))

    def check(self, index: int) -> None:
        """Raise `BadImage` or `BadData` where the image cannot be used."""
        self.image(index)

    def groups(self) -> Sequence[NDArray[np.int64]]:
        """Groups of indices, of each of which a share is held out for validation."""
        return [np.arange(len(self))]

    def named(self, classes: tuple[str, ...], category_ids: Sequence[int] = ()) -> "Split[T]":
        """The same images with the class indices of other `classes`, by name; `category_ids` are their file numbers.

        Raises `BadData` for a class that these lack, or where annotations cannot be renumbered.
        """
        if self.classes == classes:
            return self
        raise BadData(
            f"classes {listed(self.classes)}, but the run has {listed(classes)}; pass data with the run's classes in "
            "the same order"
        )

    def renamed(self, names: Mapping[str, str]) -> "Split[T]":
        """The same images with other names of classes, where `names` has one; only labels of images have such names."""
        return self

    def matched(self, train: "Split[Any]") -> "tuple[Split[Any], Split[Any], list[Finding]]":
        """The training split and this validation split with the same classes, and what was noticed about them."""
        message = (
            f"training has classes {listed(train.classes)}, validation {listed(self.classes)}; list the same in both"
        )
        differ = [Finding("error", "classes-differ", message, 1)]
        return train, self, differ if self.classes != train.classes else []


class FileSplit(Split[T]):
    """A split whose images are files below `root`."""

    root: Path
    entries: Sequence[Any]
    """What is known of each image: its `path` below `root`, and in a `ListedSplit` `image_id`, `height` and `width`."""

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        return self.entries[index].path

    def encoded(self, index: int) -> bytes:
        return read_file(self.root / self.name(index), self.name(index))

    def image(self, index: int) -> Image.Image:
        return read_image(self.root / self.name(index), self.name(index))

    def size(self, index: int) -> tuple[int, int]:
        return upright_size(self.root / self.name(index), self.name(index))

    def check_map(self, index: int, image: Image.Image, path: str, shape: tuple[int, ...], kind: str) -> None:
        """Raise `BadImage` where the map or mask in the file `path` has another size than the image."""
        if shape != (image.height, image.width):
            raise BadImage(
                f"{self.name(index)}: {image.width}x{image.height} pixels, but {shape[1]}x{shape[0]} in {path}; save "
                f"the {kind} in the size of the upright image"
            )

    def take(self, indices: Sequence[int]) -> Self:
        entries = tuple(self.entries[i] for i in indices)
        return replace(self, entries=entries)  # type: ignore[type-var]  # every kind is a dataclass


class ListedSplit(FileSplit[T]):
    """A split whose images are listed in an annotation file, with numbers and sizes."""

    def image_id(self, index: int) -> int:
        """The image's number in the file that lists it; in formats without numbers its place, from 1."""
        return self.entries[index].image_id

    def size(self, index: int) -> tuple[int, int]:
        """Height and width as annotated."""
        return self.entries[index].height, self.entries[index].width


def hold_out(images: Split[T], share: float, seed: int) -> tuple[Split[T], Split[T]]:
    """The images to train on, and the `share` of each of the `groups` that is held out by `seed` for validation.

    At least one image is held out of a group of two or more, and never all.
    """
    generator = np.random.default_rng(seed)
    held: list[int] = []
    for group in images.groups():
        members = generator.permutation(group)
        held += members[: min(max(round(share * len(members)), 1), max(len(members) - 1, 0))].tolist()
    rest = np.setdiff1d(np.arange(len(images)), held)
    return images.take(rest.tolist()), images.take(sorted(held))
