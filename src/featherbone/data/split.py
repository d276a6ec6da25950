"""One split of a data set, whatever its format and its task."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from featherbone.data.bands import AnyImage, read_encoded, read_input, size_of
from featherbone.data.findings import Finding, listed
from featherbone.data.sampling import repeat_images, shuffle_blocks
from featherbone.data.text_array import TextArray
from featherbone.errors import BadData, BadImage
from featherbone.ops.label_maps import IGNORE
from featherbone.progress import track
from featherbone.text import to_bytes

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

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width."""
        return self.ids.shape

    def labels(self) -> NDArray[np.uint8]:
        """Class indices (H, W), `IGNORE` on unlabelled pixels."""
        return np.array([IGNORE, *(segment.label for segment in self.segments)], np.int64).astype(np.uint8)[self.ids]


class Split(ABC, Generic[T]):
    """The images of one split and their annotations, both read when they are asked for.

    `T` is the type of the annotations of one image: an `int` label for classification, which classes it has (K,), bool,
    for several labels per image, `Objects` for detection and instance segmentation, class indices (H, W) uint8 with 255
    where unlabelled for semantic segmentation, and `PanopticTruth` for panoptic segmentation.
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
        """The image file as it is stored, or a stack as an .npy file. Raises `BadImage`."""

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
        return hash_listing(f"{self.fingerprint()} {val.fingerprint()}")

    def file(self, index: int) -> Path | bytes:
        """The image file, or its content. Raises `BadImage`."""
        return self.encoded(index)

    def image(self, index: int, channels: int | None = None) -> AnyImage:
        """The upright image in RGB, or `Bands` of `channels` channels. Raises `BadImage`."""
        return read_input(self.file(index), channels, self.name(index))

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the upright image, from the head of its file. Raises `BadImage`."""
        return size_of(self.file(index), self.name(index))

    def read(self, index: int, channels: int | None = None) -> tuple[AnyImage, T]:
        """The image and its annotations. Raises `BadImage` or `BadData` where they cannot be used."""
        return self.image(index, channels), self.truth(index)

    def blocks(self) -> NDArray[np.int64] | None:
        """The block of each image (N,) where images are read by blocks; None where each is read by itself."""
        return None

    def order(self, seed: int, epoch: int, factors: NDArray[np.float64] | None = None) -> NDArray[np.int64]:
        """The order of an epoch of training; images of one block stay close together.

        Each image once (N,), or with the repeat `factors` (N,) as often as `repeat_images` states.
        """
        chosen = np.arange(len(self)) if factors is None else repeat_images(factors, seed, epoch)
        blocks = self.blocks()
        if blocks is not None:
            return chosen[shuffle_blocks(blocks[chosen], seed, epoch)]
        return np.random.default_rng((seed, epoch)).permutation(chosen)

    def shown_classes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs of an image (P,) and a class that it shows (P,), some more than once.

        By default all annotations, labels or maps, are read; images without readable ones show no class.
        """
        images, labels = [], []
        for index in track(range(len(self)), "reading annotations", len(self)):
            with suppress(BadData, BadImage):
                truth: Any = self.truth(index)
                shown = np.unique(truth.labels() if isinstance(truth, PanopticTruth) else truth).astype(np.int64)
                labels.append(shown[(shown >= 0) & (shown < len(self.classes))])
                images.append(np.full(len(labels[-1]), index))
        empty = np.zeros(0, np.int64)
        return np.concatenate((empty, *images)), np.concatenate((empty, *labels))

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
    paths: TextArray
    """Paths of the images below `root`."""

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def file(self, index: int) -> Path | bytes:
        return self.root / self.name(index)

    def encoded(self, index: int) -> bytes:
        return read_encoded(self.root / self.name(index), self.name(index))


class MapSplit(FileSplit[T]):
    """A split whose images each have a file with a value for every pixel."""

    maps: TextArray
    """Paths of these files below `root`."""

    def read(self, index: int, channels: int | None = None) -> tuple[AnyImage, T]:
        """As `Split.read`; raises `BadImage` where image and map differ in size."""
        image, truth = super().read(index, channels)
        height, width = truth.shape  # type: ignore[attr-defined]  # an array, or `PanopticTruth`
        if (height, width) != (image.height, image.width):
            raise BadImage(
                f"{self.name(index)}: {image.width}x{image.height} pixels, but {width}x{height} in "
                f"{self.maps[index]}; save the map in the size of the upright image"
            )
        return image, truth

    def hash_maps(self) -> bytes:
        """A hash of the names and sizes in bytes of all images and maps; reads none."""
        digest = sha256()
        for path, place, size in zip(self.paths.parts(), self.maps, self.map_sizes(), strict=True):
            digest.update(path + to_bytes(f" {place} {size}\n"))
        return digest.digest()

    def map_sizes(self) -> Iterable[int]:
        """Bytes of each map; -1 for one that cannot be read."""
        return (_num_bytes(self.root / place) for place in self.maps)


def _num_bytes(path: Path) -> int:
    """Size of a file; -1 for one that cannot be read."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


FORM = "2:"
"""Start of fingerprints that are taken of names and numbers; earlier ones, without it, were taken of all files."""


def hash_listing(head: str, *parts: bytes) -> str:
    """A fingerprint of names and numbers."""
    digest = sha256(to_bytes(head))
    for part in parts:
        digest.update(part)
    return (FORM + digest.hexdigest())[:16]


def without(images: Split[T], names: Collection[str]) -> Split[T]:
    """The images but for those of these names."""
    return images.take([index for index in range(len(images)) if images.name(index) not in names]) if names else images


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
