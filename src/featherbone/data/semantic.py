"""Images and the files that name the class of each of their pixels, in our layout, ADE20K's and Cityscapes'."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherbone.data.findings import listed
from featherbone.data.images import read_file
from featherbone.data.label_files import Code, read_code
from featherbone.data.mask_folders import find_masks
from featherbone.data.split import FileSplit
from featherbone.errors import BadData, BadImage
from featherbone.ops.label_maps import IGNORE
from featherbone.text import to_bytes

SHOWN = 5
"""Values without a meaning that a message names."""


@dataclass(frozen=True, eq=False)
class MappedImages(FileSplit[NDArray[np.uint8]]):
    """Images of one split, each with a file of classes."""

    root: Path
    pairs: tuple[tuple[str, str], ...]
    """Paths of image and mask below the data folder."""
    code: Code

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # a property serves as the attribute
        """Class names in the order of their indices."""
        return self.code.names

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return self.pairs[index][0]

    def truth(self, index: int) -> NDArray[np.uint8]:
        return self.labels(index)

    def labels(self, index: int) -> NDArray[np.uint8]:
        """Classes (H, W) of the image's pixels, `IGNORE` where none is known.

        Raises `BadImage` for a file that cannot be read, and `BadData` for values without a meaning.
        """
        path = self.pairs[index][1]
        values, coloured = self.code.read(self.root / path, path)
        if coloured and self.code.colours is None:
            raise BadData(
                f"{path}: coloured, but classes.txt names no colours; write a name and #rrggbb a line, or save indices"
            )
        labels = self.code.classes(values, coloured)
        if (labels < 0).any():
            odd = np.unique(values[labels < 0])
            told = listed([f"#{value:06x}" if coloured else str(value) for value in odd.tolist()], SHOWN)
            count = int((labels < 0).sum())
            raise BadData(
                f"{path}: {count} pixels of value {told}, which is no class; list it in classes.txt, or ignore it with "
                "--ignore-index; see: featherbone doctor"
            )
        return labels.astype(np.uint8)

    def check(self, index: int) -> None:
        """Raise `BadImage` where image or mask cannot be read or differ in size, and `BadData` as `labels` does."""
        image, labels = self.image(index), self.labels(index)
        if labels.shape != (image.height, image.width):
            name, mask = self.pairs[index]
            raise BadImage(
                f"{name}: {image.width}x{image.height} pixels, but {labels.shape[1]}x{labels.shape[0]} in {mask}; "
                "save the mask in the size of the upright image"
            )

    def take(self, indices: Sequence[int]) -> "MappedImages":
        """Only the images of `indices`, in that order."""
        return MappedImages(self.root, tuple(self.pairs[i] for i in indices), self.code)

    def fingerprint(self) -> str:
        """A hash of every image's name and mask; the same set has the same one, wherever it lies."""
        digest = sha256(to_bytes(f"{len(self)} images of {self.classes}\n"))
        for image, mask in self.pairs:
            digest.update(to_bytes(f"{image} {mask}\n"))
            digest.update(sha256(read_file(self.root / mask, mask)).digest())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class OpenedMaps:
    """One split as its files give it."""

    images: MappedImages
    unmapped: tuple[str, ...]
    """Images without a mask, left out."""
    orphans: tuple[str, ...]
    """Masks without an image."""


def open_maps(data: Path, split: str, ignore_index: int | None = None, zero_ignored: bool = False) -> OpenedMaps | None:
    """Images of a split with their masks; None where `data` has none of that name. Raises `BadData`."""
    files = find_masks(data, split)
    if files is None:
        return None
    if not files.pairs:
        first = (*files.unmapped, *files.orphans, "nothing")[0]
        raise BadData(f"{data}: no image of {split} has a mask of the same name, as {first}; name them alike")
    code = files.code or read_code(data, ignore_index, zero_ignored)
    return OpenedMaps(MappedImages(data, files.pairs, code), files.unmapped, files.orphans)


def check_two_classes(images: Any) -> None:
    """Raise `BadData` where the maps of training images show fewer than two classes.

    `images` are `MappedImages` or `PanopticImages`. Maps are read until two classes are found.
    """
    found: set[int] = set()
    for index in range(len(images)):
        found |= {*np.unique(images.labels(index)).tolist()} - {IGNORE}
        if len(found) > 1:
            return
    if not found:
        raise BadData(f"{images.root}: no pixel of the train images has a class; mark some")
    if isinstance(images, MappedImages) and is_binary(images):
        raise BadData(f"{images.root}: {binary_message(len(images), images.code)}")
    raise BadData(
        f"{images.root}: all {len(images)} train images show one class only, {images.classes[found.pop()]}; two or "
        "more are needed: mark a second one, as background"
    )


def is_binary(images: MappedImages) -> bool:
    """Whether grey masks hold 0 and 255 only, of which 255 is no class."""
    values: set[int] = set()
    for _, mask in images.pairs:
        stored, coloured = images.code.read(images.root / mask, mask)
        values |= {-1} if coloured else {*np.unique(stored).tolist()}
    return values == {0, 255} and images.code.values[255] == IGNORE


def binary_message(count: int, code: Code) -> str:
    """What masks of 0 and 255 lack, and what to do."""
    first, second = code.names[:2] if len(code.names) > 1 else ("background", code.names[0])
    return (
        f"all {count:,} masks hold 0 and 255 only, but 255 means that nothing is known: nothing but {code.names[0]} "
        f"would be learned; to read 255 as {second}, write the lines `{first} #000000` and `{second} #ffffff` to "
        "classes.txt, or save 1 where the masks have 255"
    )


def count_pixels(images: MappedImages) -> NDArray[np.int64]:
    """Pixels of each class (K,)."""
    total = np.zeros(IGNORE + 1, np.int64)
    for index in range(len(images)):
        total += np.bincount(images.labels(index).ravel(), minlength=IGNORE + 1)
    return total[: len(images.classes)]
