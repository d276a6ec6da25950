"""Images and the files that name the class of each of their pixels, in our layout, ADE20K's and Cityscapes'."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featherbone.data.findings import listed
from featherbone.data.images import Stored, read_file, upright_size
from featherbone.data.label_files import Code, cityscapes_code, cityscapes_train_code, read_code, read_values
from featherbone.data.layouts import SPLITS, split_folders
from featherbone.data.listing import list_images
from featherbone.errors import BadData, BadImage
from featherbone.ops.label_maps import IGNORE

MASKS = ("masks", "annotations")
"""Folders that masks lie in, ours and ADE20K's."""
CITY_IMAGE, CITY_LABELS, CITY_TRAIN = "_leftImg8bit", "_gtFine_labelIds", "_gtFine_labelTrainIds"
"""Ends of Cityscapes' names."""
SHOWN = 5
"""Values without a meaning that a message names."""


@dataclass(frozen=True, eq=False)
class MappedImages(Stored):
    """Images of one split, each with a file of classes."""

    root: Path
    pairs: tuple[tuple[str, str], ...]
    """Paths of image and mask below the data folder."""
    code: Code

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their indices."""
        return self.code.names

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return self.pairs[index][0]

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the image. Raises `BadImage`."""
        return upright_size(self.root / self.name(index))

    def labels(self, index: int) -> NDArray[np.uint8]:
        """Classes (H, W) of the image's pixels, `IGNORE` where none is known.

        Raises `BadImage` for a file that cannot be read, and `BadData` for values without a meaning.
        """
        path = self.pairs[index][1]
        values, coloured = read_values(self.root / path, path)
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
        image, labels = self.read(index), self.labels(index)
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
        digest = sha256(f"{len(self)} images of {self.classes}\n".encode())
        for image, mask in self.pairs:
            digest.update(f"{image} {mask}\n".encode())
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
    found = _find(data, split)
    if found is None:
        return None
    images, masks, code = found
    if code is None:
        code = read_code(data, ignore_index, zero_ignored)
    twins = {stem: path for path, stem in masks}
    pairs = [(image, twins[stem]) for image, stem in images if stem in twins]
    unmapped = tuple(image for image, stem in images if stem not in twins)
    stems = {stem for _, stem in images}
    orphans = tuple(path for path, stem in masks if stem not in stems)
    if not pairs:
        first = (unmapped or orphans or ("nothing",))[0]
        raise BadData(f"{data}: no image of {split} has a mask of the same name, as {first}; name them alike")
    return OpenedMaps(MappedImages(data, tuple(pairs), code), unmapped, orphans)


def has_maps(data: Path) -> bool:
    """Whether a folder has files of classes, not of segments alone."""
    return any(_find(data, split) for split in SPLITS)


Named = list[tuple[str, str]]
"""Paths below the data folder, and what an image and its mask have in common of them."""


def _find(data: Path, split: str) -> tuple[Named, Named, Code | None] | None:
    """Images and masks of a split, and the code of the masks where the layout says it."""
    for name in (folder.name for parent in ("leftImg8bit", "images") for folder in split_folders(data / parent, split)):
        if (data / "leftImg8bit" / name).is_dir() and (data / "gtFine" / name).is_dir():
            images = _named(data, data / "leftImg8bit" / name, (CITY_IMAGE,))
            for end, code in ((CITY_LABELS, cityscapes_code()), (CITY_TRAIN, cityscapes_train_code())):
                if masks := _named(data, data / "gtFine" / name, (end,)):
                    return images, masks, code
        for folder in MASKS:
            if (data / "images" / name).is_dir() and (data / folder / name).is_dir():
                images = _named(data, data / "images" / name, (CITY_IMAGE, ""))
                masks = _named(data, data / folder / name, (CITY_LABELS, CITY_TRAIN, ""))
                ends = {end for end in (CITY_LABELS, CITY_TRAIN) if masks and Path(masks[0][0]).stem.endswith(end)}
                codes = {CITY_LABELS: cityscapes_code(), CITY_TRAIN: cityscapes_train_code()}
                return images, masks, codes[ends.pop()] if ends else None
    return None


def _named(data: Path, folder: Path, ends: tuple[str, ...]) -> Named:
    """Pictures below a folder whose names end as one of `ends`, with their places in it without that."""
    return [
        (path.relative_to(data).as_posix(), (path.relative_to(folder).parent / stem).as_posix())
        for path in list_images(folder)
        for stem in _stem(path.stem, ends)
    ]


def _stem(stem: str, ends: tuple[str, ...]) -> Iterator[str]:
    end = next((end for end in ends if stem.endswith(end)), None)
    if end is not None:
        yield stem.removesuffix(end)


def count_pixels(images: MappedImages) -> NDArray[np.int64]:
    """Pixels of each class (K,)."""
    total = np.zeros(IGNORE + 1, np.int64)
    for index in range(len(images)):
        total += np.bincount(images.labels(index).ravel(), minlength=IGNORE + 1)
    return total[: len(images.classes)]
