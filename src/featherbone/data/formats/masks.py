"""Images and masks whose pixel values are classes: our layout, ADE20K's, Cityscapes', Pascal VOC's and others."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featherbone.data.findings import Example, listed, report
from featherbone.data.formats.format import Format, Opened, Reading, skipped_files
from featherbone.data.label_files import (
    Code,
    Values,
    cityscapes_code,
    cityscapes_train_code,
    has_code,
    read_code,
    voc_code,
)
from featherbone.data.layouts import SPLITS, names_of, split_folders
from featherbone.data.listing import SUFFIXES, below, has_images, lines_of, list_folder, list_folders, list_names
from featherbone.data.split import MapSplit, Split, hash_listing
from featherbone.data.text_array import TextArray
from featherbone.errors import BadData, BadImage
from featherbone.files import read_text
from featherbone.ops.label_maps import IGNORE

IMAGES = ("images", "image", "imgs", "img", "img_dir", "jpegimages")
"""Names, in lower case, of folders of images; `img_dir` is mmsegmentation's, `JPEGImages` Pascal VOC's."""
MASKS = (
    *("masks", "mask", "annotations", "ann_dir", "segmentationclasspng", "segmentationclass"),
    *("labels", "label", "annots", "annot", "gt"),
)
"""Names, in lower case, of folders of masks; `annotations` is ADE20K's, `SegmentationClassPNG` labelme's."""
ENDS = tuple(
    join + word
    for join in ("_", "-")
    for word in ("mask", "masks", "seg", "segmentation", "label", "labels", "gt", "annot", "l")
)
"""Suffixes, in lower case, of the names of masks, and of mask folders beside `train`; `_L` is CamVid's."""
IMAGE_ENDS = ("_image", "_img", "-image", "-img", "_sat")
"""Suffixes, in lower case, of the names of images whose masks have another suffix."""
CITY_IMAGE = "_leftImg8bit"
CITY_MASKS = {"_gtFine_labelIds": cityscapes_code, "_gtFine_labelTrainIds": cityscapes_train_code}
"""Suffixes of Cityscapes' names, and the code of the masks."""
VOC_LISTS = "ImageSets/Segmentation"


@dataclass(frozen=True, eq=False)
class MaskSplit(MapSplit[NDArray[np.uint8]]):
    """Images of one split, each with a mask of class values."""

    root: Path
    paths: TextArray
    maps: TextArray
    code: Code

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]  # a property serves as the attribute
        """Class names in the order of their indices."""
        return self.code.names

    def stored(self, index: int) -> tuple[Values, bool]:
        """Values (H, W) of a mask, and whether they are colours, as `Code.read`. Raises `BadImage`."""
        return self.code.read(self.root / self.maps[index], self.maps[index])

    def truth(self, index: int) -> NDArray[np.uint8]:
        """Class indices (H, W), `IGNORE` where unlabelled.

        Raises `BadImage` for a file that cannot be read, and `BadData` for values without a class.
        """
        path = self.maps[index]
        values, coloured = self.stored(index)
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

    def take(self, indices: Sequence[int]) -> Self:
        return replace(self, paths=self.paths.take(indices), maps=self.maps.take(indices))

    def fingerprint(self) -> str:
        return hash_listing(f"{len(self)} images of {self.classes}", self.hash_maps())


class Masks(Format):
    """Folders of images and masks."""

    name = "masks"

    def tasks(self, folder: Path) -> frozenset[str]:
        """Semantic."""
        return frozenset(("semantic",) if has_masks(folder) else ())

    def open(self, folder: Path, task: str, split: str, reading: Reading) -> Opened | None:
        files = find_masks(folder, split)
        if files is None:
            return None
        if not files.images:
            first = (*files.unmapped, *files.orphans, "nothing")[0]
            raise BadData(f"{folder}: no image of {split} has a mask of the same name, as {first}; rename one of them")
        code = files.code or read_code(folder, reading.ignore_index, reading.zero_ignored)
        message = f"images for {split} without a mask of the same name, skipped; add the masks, or remove the images"
        findings = skipped_files(f"unmapped-in-{split}", files.unmapped, len(files.images), message)
        orphans = [Example((name,)) for name in files.orphans]
        text = f"for {split} without an image of the same name; add the images"
        findings += report("warning", f"orphans-in-{split}", orphans, "mask", text)
        images = MaskSplit(folder, TextArray(files.images), TextArray(files.masks), code)
        return Opened(images, findings=tuple(findings))


@dataclass(frozen=True)
class MaskFiles:
    """Images and masks of one split, as paths below the data folder."""

    images: tuple[str, ...]
    """Images with a mask."""
    masks: tuple[str, ...]
    """Their masks."""
    unmapped: tuple[str, ...]
    """Images without a mask."""
    orphans: tuple[str, ...]
    """Masks without an image."""
    code: Code | None
    """The classes of the mask values, where the layout defines them."""


def find_masks(data: Path, split: str) -> MaskFiles | None:
    """Images and masks of a split; None where `data` has no such split.

    Without folders or lists of splits, all are `train`. There are no images where none has the name of a mask.
    """
    if found := _best(_pair(data, *folders) for folders in _places(data, split)):
        return found
    whole = (_pair(data, *folders) for folders in _whole(data))
    if lists := _voc_lists(data):
        return _best(_only(files, lists[split]) for files in whole if files) if split in lists else None
    has_splits = any(_pair(data, *folders) for other in SPLITS for folders in _places(data, other))
    return _best(whole) if split == "train" and not has_splits else None


def has_masks(data: Path) -> bool:
    """Whether a folder holds images and masks."""
    in_splits = (folders for split in SPLITS for folders in _places(data, split))
    return any(_has_pair(data, *folders) for folders in chain(in_splits, _whole(data)))


def _best(found: Iterable[MaskFiles | None]) -> MaskFiles | None:
    """The first with images that have masks; without any the first."""
    there = [files for files in found if files]
    return next((files for files in there if files.images), there[0] if there else None)


def _places(data: Path, split: str) -> Iterator[tuple[Path, Path]]:
    """Folders of images and of masks of a split."""
    for images in split_folders(data / "leftImg8bit", split):
        yield images, data / "gtFine" / images.name
    for images, masks in _folders(data):  # images/train and masks/train
        yield from product(split_folders(images, split), split_folders(masks, split))
    for folder in split_folders(data, split):
        yield from _folders(folder)  # train/images and train/masks
        for masks in list_folders(data):  # train and train_masks, or trainannot
            end = masks.name.lower().removeprefix(folder.name.lower())
            if end != masks.name.lower() and (end in ENDS or end in MASKS):
                yield folder, masks
        if not list_folders(folder):
            yield folder, folder  # train/0.jpg and train/0_mask.png


def _folders(parent: Path) -> Iterator[tuple[Path, Path]]:
    """Each folder of images in `parent` with each of masks."""
    inside = {path.name.lower(): path for path in list_folders(parent)}
    for images, masks in product(IMAGES, MASKS):
        if images in inside and masks in inside:
            yield inside[images], inside[masks]


def _whole(data: Path) -> Iterator[tuple[Path, Path]]:
    """Folders of images and of masks that are in no split."""
    yield from _folders(data)
    if not list_folders(data):
        yield data, data


def _has_pair(data: Path, images: Path, masks: Path) -> bool:
    """Whether two folders hold images, or one folder images and their masks."""
    if images == masks:
        return _pair(data, images, masks) is not None
    return all(map(has_images, (images, masks)))


def _pair(data: Path, images: Path, masks: Path) -> MaskFiles | None:
    """Images and masks of two folders, or of one; None where there are none of either."""
    of_images, of_masks = _names(data, images), _names(data, masks)
    code = None
    if end := next((end for end in CITY_MASKS if any(name.endswith(end) for name, _ in of_masks)), None):
        of_masks = [(name.removesuffix(end), path) for name, path in of_masks if name.endswith(end)]
        of_images = [(name.removesuffix(CITY_IMAGE), path) for name, path in of_images]
        code = CITY_MASKS[end]()
    if images == masks:
        stems = {stem for name, _ in of_images for stem in (name, _shorten(name, IMAGE_ENDS))}
        short = {name: _shorten(name, ENDS) for name, _ in of_masks}
        of_masks = [(name, path) for name, path in of_masks if short[name] != name and short[name] in stems]
        masked = {path for _, path in of_masks}
        of_images = [(name, path) for name, path in of_images if path not in masked]
    if not of_images or not of_masks:
        return None
    if code is None and images.name == "JPEGImages" and not has_code(data):
        code = voc_code()
    twins = {_shorten(name, ENDS): path for name, path in reversed(of_masks)} | dict(reversed(of_masks))
    pairs, unmapped = [], []
    for name, path in of_images:
        if mask := twins.get(name) or twins.get(_shorten(name, IMAGE_ENDS)):
            pairs.append((path, mask))
        else:
            unmapped.append(path)
    taken = {mask for _, mask in pairs}
    orphans = [path for _, path in of_masks if path not in taken]
    return MaskFiles(
        images=tuple(path for path, _ in pairs),
        masks=tuple(mask for _, mask in pairs),
        unmapped=tuple(unmapped),
        orphans=tuple(orphans),
        code=code,
    )


def _names(data: Path, folder: Path) -> list[tuple[str, str]]:
    """Image files below a folder: their places in it without the suffix, and their paths below `data`."""
    start = "" if folder == data else f"{below(data, folder)}/"
    return [(os.path.splitext(name)[0], start + name) for name in list_names(folder, SUFFIXES)]


def _shorten(name: str, ends: tuple[str, ...]) -> str:
    end = next((end for end in ends if name.lower().endswith(end)), "")
    return name[: len(name) - len(end)]


def _voc_lists(data: Path) -> dict[str, set[str]]:
    """Names of images by split, from Pascal VOC's lists; empty where no list is of a split."""
    folder = data / VOC_LISTS
    files = {file.stem: file for file in list_folder(folder) if file.suffix == ".txt"}
    lists = {}
    for split in SPLITS:
        for stem in names_of(split, files)[:1]:
            text = read_text(files[stem], below(data, files[stem]))
            lists[split] = {line.split()[0] for line in lines_of(text)}
    return lists


def _only(files: MaskFiles, names: set[str]) -> MaskFiles:
    pairs = [pair for pair in zip(files.images, files.masks, strict=True) if Path(pair[0]).stem in names]
    unmapped = tuple(path for path in files.unmapped if Path(path).stem in names)
    return MaskFiles(tuple(one for one, _ in pairs), tuple(mask for _, mask in pairs), unmapped, (), files.code)


MAX_VALUES = 5
"""Values without a class that a message lists."""


def read_maps(images: Split[Any], data: Path, split: str) -> Iterator[NDArray[np.uint8]]:
    """The label maps of a split that can be read, one by one. Raises `BadData` where there is none."""
    reasons = []
    for index in range(len(images)):
        try:
            labels = images.truth(index)
        except (BadData, BadImage) as error:
            reasons.append(str(error))
        else:
            yield labels
    if reasons and len(reasons) == len(images):
        raise BadData(f"{data}: none of the {split} maps can be read; the first: {reasons[0]}")


def check_two_classes(images: Split[NDArray[np.uint8]], data: Path) -> None:
    """Raise `BadData` where the maps of training images have fewer than two classes; reads maps until two are found."""
    found: set[int] = set()
    for labels in read_maps(images, data, "train"):
        found |= {*np.unique(labels).tolist()} - {IGNORE}
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
    for index in range(len(images)):
        stored, coloured = images.stored(index)
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
    """Pixels of each class (K,) over the label maps of a split that can be read."""
    total = np.zeros(IGNORE + 1, np.int64)
    for labels in read_maps(images, Path(), "train"):
        total += np.bincount(labels.ravel(), minlength=IGNORE + 1)
    return total[: len(images.classes)]
