"""A folder of images whose every pixel has a class or a segment, opened for training."""

from pathlib import Path

from featherbone.data.findings import listed
from featherbone.data.layouts import LAYOUTS, TRAINING_SPLITS
from featherbone.data.panoptic import OpenedPanoptic, open_panoptic
from featherbone.data.semantic import OpenedMaps, open_maps
from featherbone.data.splits import Splits, hold_out
from featherbone.errors import BadData


def open_segmentation(
    data: Path,
    task: str,
    val_share: float = 0.2,
    seed: int = 0,
    ignore_index: int | None = None,
    zero_ignored: bool = False,
) -> Splits:
    """Both splits for semantic or panoptic segmentation, of `MappedImages` or `PanopticImages`.

    Where there is no validation split, `val_share` of the images is held out by `seed`. `ignore_index` and
    `zero_ignored` are of `read_code`. Raises `BadData` for what would spoil training.
    """
    opened = {
        split: open_segmentation_split(data, task, split, ignore_index, zero_ignored) for split in TRAINING_SPLITS
    }
    train, val = opened["train"], opened["val"]
    if train is None:
        raise BadData(f"{data}: no images to train {task} segmentation on; the layouts are\n{LAYOUTS}")
    notices = [notice for split, part in opened.items() if part for notice in _notices(split, part)]
    images = train.images
    if val is None:
        images, held_out, notice = hold_out(images, val_share, seed)
        return Splits(images, held_out, (*notices, notice))
    if images.classes != val.images.classes:
        raise BadData(
            f"{data}: training has classes {listed(images.classes)}, validation {listed(val.images.classes)}; list "
            "the same in both"
        )
    return Splits(images, val.images, tuple(notices))


def open_segmentation_split(
    data: Path, task: str, split: str, ignore_index: int | None = None, zero_ignored: bool = False, check: bool = True
) -> OpenedMaps | OpenedPanoptic | None:
    """One split, None where `data` has none of that name; without `check` with all that is wrong in it."""
    if task == "semantic" and (maps := open_maps(data, split, ignore_index, zero_ignored)):
        return maps
    return open_panoptic(data, split, check)


def _notices(split: str, opened: OpenedMaps | OpenedPanoptic) -> list[str]:
    if isinstance(opened, OpenedPanoptic):
        gone = opened.missing
        told = [(gone, f"{len(gone)} images or maps are listed but not there, and were left out")]
    else:
        told = [
            (opened.unmapped, f"{len(opened.unmapped)} images without a mask were left out"),
            (opened.orphans, f"{len(opened.orphans)} masks without an image were left out"),
        ]
    return [f"{split}: {what}: {listed(names)}" for names, what in told if names]
