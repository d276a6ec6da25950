"""Images and masks whose pixel values are classes: our layout, ADE20K's, Cityscapes', Pascal VOC's and others."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherbone.data.findings import Example, listed, report
from featherbone.data.formats.format import Format, Opened, Reading, skipped_files
from featherbone.data.formats.mask_folders import MaskPair, find_masks, has_masks
from featherbone.data.images import read_file
from featherbone.data.label_files import Code, read_code
from featherbone.data.split import FileSplit, Split
from featherbone.errors import BadData
from featherbone.ops.label_maps import IGNORE
from featherbone.text import to_bytes

MAX_VALUES = 5
"""Values without a class that a message lists."""


@dataclass(frozen=True, eq=False)
class MaskSplit(FileSplit[NDArray[np.uint8]]):
    """Images of one split, each with a mask of class values."""

    root: Path
    entries: tuple[MaskPair, ...]
    code: Code

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # a property serves as the attribute
        """Class names in the order of their indices."""
        return self.code.names

    def truth(self, index: int) -> NDArray[np.uint8]:
        """Class indices (H, W), `IGNORE` where unlabelled.

        Raises `BadImage` for a file that cannot be read, and `BadData` for values without a class.
        """
        path = self.entries[index].mask
        values, coloured = self.code.read(self.root / path, path)
        if coloured and self.code.colours is None:
            raise BadData(
                f"{path}: a colour image, but classes.txt lists no colours; write a name and #rrggbb a line, or save "
                "indices"
            )
        labels = self.code.classes(values, coloured)
        if (labels < 0).any():
            odd = np.unique(values[labels < 0])
            shown = listed([f"#{value:06x}" if coloured else str(value) for value in odd.tolist()], MAX_VALUES)
            count = int((labels < 0).sum())
            raise BadData(
                f"{path}: {count} pixels of value {shown}, which is no class; list it in classes.txt, or ignore it "
                "with --ignore-index; see: featherbone doctor"
            )
        return labels.astype(np.uint8)

    def check(self, index: int) -> None:
        """Raise `BadImage` where image or mask cannot be read or differ in size, and `BadData` as `truth` does."""
        self.check_map(index, self.image(index), self.entries[index].mask, self.truth(index).shape, "mask")

    def fingerprint(self) -> str:
        digest = sha256(to_bytes(f"{len(self)} images of {self.classes}\n"))
        for image, mask in self.entries:
            digest.update(to_bytes(f"{image} {mask}\n"))
            digest.update(sha256(read_file(self.root / mask, mask)).digest())
        return digest.hexdigest()[:16]


class Masks(Format):
    """Folders of images and masks."""

    name = "masks"

    def tasks(self, folder: Path) -> frozenset[str]:
        """Semantic."""
        return frozenset(("semantic",) if folder.is_dir() and has_masks(folder) else ())

    def open(self, folder: Path, task: str, split: str, reading: Reading) -> Opened | None:
        files = find_masks(folder, split)
        if files is None:
            return None
        if not files.pairs:
            first = (*files.unmapped, *files.orphans, "nothing")[0]
            raise BadData(f"{folder}: no image of {split} has a mask of the same name, as {first}; rename one of them")
        code = files.code or read_code(folder, reading.ignore_index, reading.zero_ignored)
        message = f"images for {split} without a mask of the same name, skipped; add the masks, or remove the images"
        findings = skipped_files(f"unmapped-in-{split}", files.unmapped, len(files.pairs), message)
        orphans = [Example((name,)) for name in files.orphans]
        text = f"for {split} without an image of the same name; add the images"
        findings += report("warning", f"orphans-in-{split}", orphans, "mask", text)
        return Opened(MaskSplit(folder, files.pairs, code), findings=tuple(findings))


def check_two_classes(images: Split[NDArray[np.uint8]], data: Path) -> None:
    """Raise `BadData` where the maps of training images have fewer than two classes; reads maps until two are found."""
    found: set[int] = set()
    for index in range(len(images)):
        found |= {*np.unique(images.truth(index)).tolist()} - {IGNORE}
        if len(found) > 1:
            return
    if not found:
        raise BadData(f"{data}: no pixel of the train images has a class; annotate some")
    if isinstance(images, MaskSplit) and is_binary(images):
        raise BadData(f"{data}: {binary_message(len(images), images.code)}")
    raise BadData(
        f"{data}: all {len(images)} train images show one class only, {images.classes[found.pop()]}; two or more are "
        "needed: annotate a second one, as background"
    )


def is_binary(images: MaskSplit) -> bool:
    """Whether grey masks hold 0 and 255 only, and 255 is not a class."""
    values: set[int] = set()
    for _, mask in images.entries:
        stored, coloured = images.code.read(images.root / mask, mask)
        values |= {-1} if coloured else {*np.unique(stored).tolist()}
    return values == {0, 255} and images.code.values[255] == IGNORE


def binary_message(count: int, code: Code) -> str:
    """The problem of masks of 0 and 255, and what to do."""
    first, second = code.names[:2] if len(code.names) > 1 else ("background", code.names[0])
    return (
        f"all {count:,} masks hold 0 and 255 only, but 255 means unlabelled: only {code.names[0]} would be trained; "
        f"to read 255 as {second}, write the lines `{first} #000000` and `{second} #ffffff` to classes.txt, or save 1 "
        "where the masks have 255"
    )


def count_pixels(images: Split[Any]) -> NDArray[np.int64]:
    """Pixels of each class (K,) over the label maps of a split."""
    total = np.zeros(IGNORE + 1, np.int64)
    for index in range(len(images)):
        total += np.bincount(images.truth(index).ravel(), minlength=IGNORE + 1)
    return total[: len(images.classes)]
