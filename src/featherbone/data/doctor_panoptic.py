"""Every check on panoptic maps and what their json says of them, before training."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featherbone.data.dataset import inspect_data
from featherbone.data.doctor_maps import (
    MapFacts,
    Mapped,
    add_up,
    check_maps,
    conclude,
    gather_maps,
    tint,
)
from featherbone.data.findings import MAX_EXAMPLES, Examination, Example, Finding, finding, grade, many
from featherbone.data.formats.panoptic import PanopticSplit, Part
from featherbone.errors import BadImage
from featherbone.ops.label_maps import IGNORE
from featherbone.ops.rle import box_of

NEAR = 2
"""Pixels by which a stated box may lie beside the true one."""
ABOUT = 0.01
"""Share by which a stated area may differ from the true one."""


class PartFacts(NamedTuple):
    """One segment as the map shows it."""

    image: int
    part: Part
    area: int
    """Pixels; 0 where the map does not have it."""
    box: tuple[int, int, int, int]
    """x y width height."""


def examine_panoptic(data: Path, task: str = "panoptic", val_share: float = 0.2, seed: int = 0) -> Examination:
    """Read every image and map of `data` once and report all that is wrong; a problem never ends the examination.

    Images are split as in training for `task` by `val_share` and `seed`.
    """
    opened, findings = inspect_data(data, task, val_share, seed)
    sources = {split: getattr(images, "source", images) for split, images in opened.items()}
    splits = {split: images for split, images in sources.items() if isinstance(images, PanopticSplit)}
    first = next(iter(splits.values()), None)
    classes = first.classes if first else ()
    mapped = gather_maps(splits, _facts, _draw)
    segments = _segments(splits, mapped)
    findings += check_maps(mapped)
    findings += _check_ids(splits, mapped, segments)
    findings += _check_statements(mapped, segments)
    if first:
        findings += _check_kinds(first, mapped, segments)
    return conclude(str(data), task, classes, mapped, findings)


def _facts(images: PanopticSplit, index: int) -> MapFacts:
    try:
        ids = images.ids(index)
    except BadImage as error:
        return MapFacts(str(error))
    known, counts = np.unique(ids, return_counts=True)
    classes = {part.id: part.label for part in images.parts(index, ids)}
    labels = [classes.get(value, IGNORE) for value in known.tolist()]
    facts = dict(zip(known.tolist(), counts.tolist(), strict=True)), add_up(labels, counts.tolist())
    return MapFacts("", (ids.shape[0], ids.shape[1]), *facts)


def _draw(images: PanopticSplit, index: int, mask: NDArray[np.bool_] | None) -> Image.Image:
    ids = images.ids(index)
    known, places = np.unique(ids, return_inverse=True)
    numbers = np.where(known == 0, 255, np.arange(len(known)) % 255)
    return tint(images.image(index), numbers[places.reshape(ids.shape)], mask)


def _segments(splits: Mapping[str, PanopticSplit], mapped: Mapped) -> list[PartFacts]:
    """Every segment of the images that can be read."""
    readable = set(mapped.readable())
    found: list[PartFacts] = []
    at = 0
    for images in splits.values():
        for index in range(len(images)):
            if at in readable:
                ids = images.ids(index)
                found += [PartFacts(at, part, *_measure(ids == part.id)) for part in images.parts(index, ids)]
            at += 1
    return found


def _measure(mask: NDArray[np.bool_]) -> tuple[int, tuple[int, int, int, int]]:
    x1, y1, x2, y2 = box_of(mask)
    return int(mask.sum()), (x1, y1, x2 - x1, y2 - y1)


def _check_ids(splits: Mapping[str, PanopticSplit], mapped: Mapped, segments: list[PartFacts]) -> Iterator[Finding]:
    """Ids of map and json against each other."""
    readable = mapped.readable()
    entries = [(images, i) for images in splits.values() for i in range(len(images))]
    examples: list[Example] = []
    total = 0
    for at in readable:
        images, index = entries[at]
        parts = images.entries[index].parts
        if parts is None:
            continue
        extra = mapped.facts[at].values.keys() - {part.id for part in parts} - {0}
        if extra:
            total += 1
            if len(examples) < MAX_EXAMPLES:
                mask = np.isin(images.ids(index), list(extra))
                note = f"{many(list(extra), 'id')}, as {min(extra)}, on {many(int(mask.sum()), 'pixel')}"
                examples.append(Example((mapped.names[at],), note, (mapped.draw(at, mask),)))
    if total:
        message = (
            f"{many(total, 'map')} of {len(readable):,} with ids that segments_info does not list; list them, or paint "
            "them black. Ids are R + 256 G + 65536 B; a smoothed or JPEG map makes such ids, too"
        )
        yield Finding("error", "unlisted-ids", message, total, tuple(examples))
    if gone := [s for s in segments if not s.area]:
        message = f"{many(gone, 'segment')} of {len(segments):,} that the map does not show; remove them from the json"
        yield finding(
            grade(len(gone), len(segments)), "absent-segments", message, [_point(mapped, s, "") for s in gone]
        )


def _check_statements(mapped: Mapped, segments: list[PartFacts]) -> Iterator[Finding]:
    """Areas and boxes as stated against those on the map."""
    there = [s for s in segments if s.area]
    areas = [s for s in there if "area" in s.part.about and abs(s.part.about["area"] - s.area) > ABOUT * s.area]
    if areas:
        message = (
            f"{many(areas, 'segment')} of {len(there):,} with another area on the map than stated; count the pixels "
            "anew: other tools trust what is stated"
        )
        notes = [_point(mapped, s, f"{s.area:,} pixels, stated {s.part.about['area']:,}") for s in areas]
        yield finding("warning", "area-mismatch", message, notes)
    boxes = [s for s in there if "bbox" in s.part.about and not _near(s.part.about["bbox"], s.box)]
    if boxes:
        message = (
            f"{many(boxes, 'segment')} of {len(there):,} whose box, x y width height, is not round its pixels; draw "
            "it anew"
        )
        notes = [_point(mapped, s, f"at {list(s.box)}, stated {s.part.about['bbox']}") for s in boxes]
        yield finding("warning", "box-mismatch", message, notes)


def _check_kinds(images: PanopticSplit, mapped: Mapped, segments: list[PartFacts]) -> Iterator[Finding]:
    """Things and stuff."""
    per: dict[tuple[int, int], int] = {}
    for s in segments:
        if s.area and s.part.label in images.stuff:
            per[s.image, s.part.label] = per.get((s.image, s.part.label), 0) + 1
    several = [(image, label, count) for (image, label), count in per.items() if count > 1]
    if several:
        message = (
            f"{many(several, 'time')} two or more segments of one kind of stuff on an image; if they can be counted, "
            "set isthing to 1, else give them one id"
        )
        notes = [Example((mapped.names[i],), f"{count} of {images.classes[label]}") for i, label, count in several]
        yield finding("warning", "several-stuff", message, notes)
    if crowds := [s for s in segments if s.part.crowd]:
        message = f"{many(crowds, 'crowd')} of things not taken apart: nothing is learned or counted there"
        yield finding("note", "crowds", message, [_point(mapped, s, images.classes[s.part.label]) for s in crowds])
    if odd := [s for s in crowds if s.part.label in images.stuff]:
        message = f"{many(odd, 'crowd')} of stuff, which cannot be counted anyway; set iscrowd to 0"
        yield finding("warning", "stuff-crowds", message, [_point(mapped, s, "") for s in odd])


def _point(mapped: Mapped, segment: PartFacts, note: str) -> Example:
    told = f"segment {segment.part.id}"
    return Example((mapped.names[segment.image],), f"{told}: {note}" if note else told)


def _near(stated: object, true: tuple[int, int, int, int]) -> bool:
    if not isinstance(stated, list) or len(stated) != 4:
        return False
    (x, y, w, h), (tx, ty, tw, th) = stated, true
    return max(abs(x - tx), abs(y - ty), abs(x + w - tx - tw), abs(y + h - ty - th)) <= NEAR
