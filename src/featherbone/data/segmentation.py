"""A folder of images whose every pixel has a class or a segment, opened for training."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from featherbone.data.findings import MOST, Example, Finding, finding, grade, listed, many, notices, refuse
from featherbone.data.layouts import TRAINING_SPLITS
from featherbone.data.panoptic import OpenedPanoptic, PanopticImages, open_panoptic
from featherbone.data.semantic import OpenedMaps, open_maps
from featherbone.data.splits import Splits, hold_out, settle
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
    splits, findings = inspect_segmentation(data, task, val_share, seed, ignore_index, zero_ignored)
    refuse(findings, data)
    return Splits(splits["train"], splits["val"], notices(findings))


def inspect_segmentation(
    data: Path,
    task: str,
    val_share: float = 0.2,
    seed: int = 0,
    ignore_index: int | None = None,
    zero_ignored: bool = False,
) -> tuple[dict[str, Any], list[Finding]]:
    """The splits that training takes, as far as they can be opened, and what is wrong with them; no map is read.

    A problem is a finding and never raises.
    """
    splits: dict[str, Any] = {}
    findings: list[Finding] = []
    for split in TRAINING_SPLITS:
        try:
            opened = open_segmentation_split(data, task, split, ignore_index, zero_ignored, check=False)
        except BadData as error:
            findings.append(Finding("error", "unreadable-split", str(error).removeprefix(f"{data}: "), 1))
            continue
        if opened:
            splits[split] = opened.images
            findings += check_files(split, opened)
    panoptic = {split: images for split, images in splits.items() if isinstance(images, PanopticImages)}
    findings += check_segments(panoptic, task)
    settle(splits, findings, hold_out, val_share, seed)
    return splits, findings


def open_segmentation_split(
    data: Path, task: str, split: str, ignore_index: int | None = None, zero_ignored: bool = False, check: bool = True
) -> OpenedMaps | OpenedPanoptic | None:
    """One split, None where `data` has none of that name; without `check` with all that is wrong in it."""
    if task == "semantic" and (maps := open_maps(data, split, ignore_index, zero_ignored)):
        return maps
    return open_panoptic(data, split, check)


def check_files(split: str, opened: OpenedMaps | OpenedPanoptic) -> Iterator[Finding]:
    """Images without a map, and maps without an image."""
    if isinstance(opened, OpenedPanoptic):
        missing = [Example((name,)) for name in opened.missing]
        code, of = f"missing-in-{split}", f"images and maps listed for {split} but not there"
        remedy = "bring them back, or correct names and folder"
    else:
        missing = [Example((name,)) for name in opened.unmapped]
        code, of = f"unmapped-in-{split}", f"images for {split} without a mask of the same name"
        remedy = "add the masks, or remove the images"
        if orphans := [Example((name,)) for name in opened.orphans]:
            message = f"{many(orphans, 'mask')} for {split} without an image of the same name; add the images"
            yield finding("warning", f"orphans-in-{split}", message, orphans)
    if missing:
        total = len(opened.images) + len(missing)
        message = f"{len(missing):,} of {total:,} {of}, left out; {remedy}"
        yield finding(grade(len(missing), total, MOST), code, message, missing)


def check_segments(splits: Mapping[str, PanopticImages], task: str) -> Iterator[Finding]:
    """What panoptic files say of classes and segments, without a look at the maps; `task` is what it is read for."""
    if len(splits) == len(TRAINING_SPLITS):
        train, val = splits["train"], splits["val"]
        if (train.category_ids, train.classes) != (val.category_ids, val.classes):
            message = (
                f"training has classes {listed(train.classes)}, validation {listed(val.classes)}, or other ids for "
                "them; list the same in both"
            )
            yield Finding("error", "classes-differ", message, 1)
        elif train.things != val.things:
            odd = [Example((train.classes[i],)) for i in sorted({*train.things} ^ {*val.things})]
            message = f"{many(odd, 'class', 'classes')} a thing in one split and stuff in the other; set isthing alike"
            yield finding("error", "isthing-differs", message, odd)
    for split, images in splits.items():
        for kind, of in (("things", images.things), ("stuff", images.stuff)):
            if not of and task == "panoptic":
                needed = kind == "things" and split == "train"
                message = f"{split}: all classes have the same isthing, so there are no {kind}; set isthing to 1 or 0"
                message += ", or train semantic segmentation" if needed else ""
                yield Finding("error" if needed else "warning", f"no-{kind}-in-{split}", message, 0)
    entries = [entry for images in splits.values() for entry in images.entries]
    total = sum(len(entry.parts or ()) for entry in entries)
    unknown = [(entry, part) for entry in entries for part in entry.parts or () if part.label < 0]
    if unknown:
        examples = [Example((e.path,), f"segment {p.id}: category {p.about.get('category_id')}") for e, p in unknown]
        message = f"{many(unknown, 'segment')} of {total:,} of a category that is not listed; list the classes"
        yield finding("error", "unknown-class", message, examples)
    if twice := [Example((e.path,)) for e in entries if e.parts and len({p.id for p in e.parts}) < len(e.parts)]:
        message = f"{many(twice, 'image')} with an id given to two segments; give each its own"
        yield finding("error", "repeated-ids", message, twice)
