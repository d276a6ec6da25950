"""Checks on each box and mask of a data set, and on their sizes at the network's input."""

from collections.abc import Iterator
from math import ceil

import numpy as np
from numpy.typing import NDArray

from featherbone.data.doctor_marks import Floats, Ints, Marks
from featherbone.data.findings import MOST, Example, Finding, ObjectFacts, Picture, finding, grade, many
from featherbone.data.layouts import TRAINING_SPLITS

BEYOND = 2.0
"""Pixels by which a box or mask may leave its image, or edges of the two may differ."""
TINY = 2.0
"""A smaller side in the image, in pixels, that can only be a slip of the mouse."""
WHOLE = 0.99
"""Share of the image from which on a box is one of the whole image."""
SAME = 0.95
"""IoU above which two boxes in an image are one."""
NEIGHBOURS = 50
"""Most boxes that a box is compared with to find those in its place."""
AGREE = 0.8
"""IoU of a box with the pixels of its mask, and ratio of a stated area to the mask's, that are still in order."""
DEFECTS = 0.05
"""From this share of the objects on, defects that blur training are errors, and habits are worth a warning."""
ELONGATED = 8
"""A longer side more than so many times the shorter is out of reach of the usual anchors."""
SMALL = 8
"""Pixels of the smaller side at the input, the finest stride of the usual heads, under which little can be found."""
KEPT = 100
"""Detections that heads keep of an image."""
LARGEST_INPUT = 1536
"""Where small objects ask for more, tiles are the better way."""


def check_boxes(marks: Marks) -> Iterator[Finding]:
    """Boxes that cannot be, and those that hardly can."""
    sides, (low, high), total = marks.sides, (marks.boxes[:, :2], marks.boxes[:, 2:]), len(marks.boxes)
    if wrong := _wrong_form(marks):
        yield wrong
    empty = ~(sides > 0).all(1)
    outside = ~empty & ((high <= 0) | (low >= marks.limits)).any(1)
    beyond = ~empty & ~outside & ((-low > BEYOND) | (high - marks.limits > BEYOND)).any(1)
    within = ~empty & ~outside
    if len(rows := np.flatnonzero(empty)):
        message = f"{many(len(rows), 'box', 'boxes')} of {total:,} without width or height, left out; draw or remove"
        yield marks.point(grade(len(rows), total), "empty-box", message, rows)
    if len(rows := np.flatnonzero(outside)):
        message = (
            f"{many(len(rows), 'box', 'boxes')} of {total:,} wholly outside the image, left out; compare the sizes and "
            "names of images and annotations"
        )
        yield marks.point(grade(len(rows), total), "outside-image", message, rows)
    if not wrong and len(rows := np.flatnonzero(beyond)):
        message = (
            f"{many(len(rows), 'box', 'boxes')} of {total:,} more than {BEYOND:g} px beyond the image, cut at its "
            "border; if the visible part should be wider, they were drawn on an image of another size"
        )
        yield marks.point("warning", "beyond-image", message, rows)
    if len(rows := np.flatnonzero(within & (sides.min(1) < TINY) & ~marks.crowd)):
        message = (
            f"{many(len(rows), 'box', 'boxes')} of {total:,} under {TINY:g} px wide or high, mostly slips of the "
            "mouse; remove them"
        )
        yield marks.point("warning", "tiny-box", message, rows)
    shown = np.minimum(high, marks.limits) - low.clip(0)
    whole = within & ~marks.crowd & (shown.prod(1) >= WHOLE * marks.limits.prod(1))
    if len(rows := np.flatnonzero(whole)):
        message = (
            f"{many(len(rows), 'box', 'boxes')} of {total:,} around the whole image; check that an object fills it"
        )
        yield marks.point("warning" if len(rows) > DEFECTS * total else "note", "whole-image-box", message, rows)
    clear = marks.clear
    if len(rows := np.flatnonzero(clear & (sides.max(1) > ELONGATED * sides.min(1)))):
        if len(rows) > DEFECTS * clear.sum():
            message = (
                f"{len(rows) / clear.sum():.0%} of the boxes are more than {ELONGATED} times as long as wide, where "
                "anchors end at 2 or 3; mark shorter parts, or expect loose boxes"
            )
            yield marks.point("warning", "elongated-boxes", message, rows)
    yield from _check_pairs(marks)


def _wrong_form(marks: Marks) -> Finding | None:
    """Boxes that are not x y width height in pixels, all of a split."""
    whole = (marks.sides > 0).all(1)
    of = marks.splits[marks.image]
    parts = [rows for split in TRAINING_SPLITS if len(rows := np.flatnonzero(whole & (of == split)))]
    if wrong := [rows for rows in parts if _are_shares(marks, rows)]:
        message = "every box is between 0 and 1; COCO's are in pixels: multiply by the width and height of the image"
        return marks.point("error", "boxes-normalised", message, np.concatenate(wrong))
    beyond = [rows[_beyond(marks, rows)] for rows in parts if _are_corners(marks, rows)]
    if beyond:
        message = (
            f"the boxes look like x1 y1 x2 y2: read as x y width height, {many(sum(map(len, beyond)), 'box', 'boxes')} "
            "leave their image; write the width and height in place of the second corner"
        )
        return marks.point("error", "boxes-as-corners", message, np.concatenate(beyond))
    return None


def _are_shares(marks: Marks, rows: Ints) -> bool:
    return max(marks.boxes[rows, :2].max(), marks.sides[rows].max()) <= 1 and marks.limits[rows].min() > 2


def _are_corners(marks: Marks, rows: Ints) -> bool:
    corner, sides, limits = marks.boxes[rows, :2], marks.sides[rows], marks.limits[rows]
    inside = (sides > corner) & (sides <= limits + BEYOND)
    return bool(_beyond(marks, rows).mean() > 0.2 and inside.all())


def _beyond(marks: Marks, rows: Ints) -> NDArray[np.bool_]:
    beyond = marks.boxes[rows, 2:] > marks.limits[rows] + BEYOND
    return beyond[:, 0] | beyond[:, 1]


def _check_pairs(marks: Marks) -> Iterator[Finding]:
    """Two boxes in one place."""
    alike, other = _same_places(marks)
    clear = int(marks.clear.sum())

    def both(one: int, other: int) -> str:
        return f"{marks.called(one)}; {marks.called(other)}"

    if len(alike):
        message = (
            f"{many(len(alike), 'object')} of {clear:,} marked twice: another box of the class lies over {SAME:.0%} of "
            "it; remove one"
        )
        yield marks.point(grade(len(alike), clear, MOST), "duplicate-box", message, alike, both)
    if len(other):
        message = (
            f"{many(len(other), 'place')} marked with two classes, boxes over {SAME:.0%} the same; keep the right one, "
            "for a box has one class"
        )
        yield marks.point("warning", "two-class-box", message, other, both)


def _same_places(marks: Marks) -> tuple[Ints, Ints]:
    """Boxes, no crowds, over another in their image with an IoU above `SAME`: of its class, and of another class.

    Pairs of rows (n, 2), for every box with the first found. Sides of two such boxes differ by less than `SAME`, so in
    the order of their left sides a box is compared with those that follow within that distance, `NEIGHBOURS` at most:
    where more are in one place, enough are found, and the time is linear in the number of boxes.
    """
    rows = np.flatnonzero(marks.clear)
    x1, y1, x2, y2 = marks.boxes[rows].T
    rows = rows[np.lexsort((rows, y2, x2, y1, x1, marks.image[rows]))]
    boxes, image, labels = marks.boxes[rows], marks.image[rows], marks.labels[rows]
    reach = boxes[:, 0] + (1 / SAME - 1) * (boxes[:, 2] - boxes[:, 0])
    first = {same: np.full(len(rows), -1) for same in (True, False)}
    left = np.arange(len(rows))
    for step in range(1, NEIGHBOURS + 1):
        left = left[left + step < len(rows)]
        right = left + step
        near = (image[left] == image[right]) & (boxes[right, 0] <= reach[left])
        left, right = left[near], right[near]  # those dropped are out of reach of all that follow
        if not len(left):
            break
        unknown = first[True][right] < 0
        one, other = left[unknown], right[unknown]
        over = _pair_iou(boxes[one], boxes[other]) > SAME
        for same, partner in first.items():
            new = over & ((labels[one] == labels[other]) == same) & (partner[other] < 0)
            partner[other[new]] = one[new]
    pairs = []
    for partner in first.values():
        found = np.flatnonzero(partner >= 0)
        pairs.append(np.sort(np.column_stack([rows[partner[found]], rows[found]]), axis=1))
    return pairs[0], pairs[1]


def _pair_iou(boxes: Floats, others: Floats) -> Floats:
    """Intersection over union of boxes x1 y1 x2 y2 (n, 4), none empty, each with its counterpart: (n,)."""
    inner = (np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])).clip(0).prod(1)
    areas, other_areas = ((x[:, 2:] - x[:, :2]).prod(1) for x in (boxes, others))
    return inner / (areas + other_areas - inner)


def box_iou(boxes: Floats, others: Floats) -> Floats:
    """Intersection over union of boxes x1 y1 x2 y2 (n, 4) and (m, 4), none empty: (n, m)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    inner = (high - low).clip(0).prod(2)
    areas, other_areas = (np.prod(x[:, 2:] - x[:, :2], axis=1) for x in (boxes, others))
    return inner / (areas[:, None] + other_areas - inner)


def check_masks(marks: Marks) -> Iterator[Finding]:
    """Masks by themselves, and against their boxes and areas."""
    facts, total = marks.masks, len(marks.boxes)
    if len(rows := np.flatnonzero(facts.areas == 0)):
        message = f"{many(len(rows), 'mask')} of {total:,} that cover no pixel; draw or remove the object"
        yield marks.point(grade(len(rows), total), "empty-mask", message, rows)
    if len(rows := np.flatnonzero(facts.beyond > BEYOND)):
        message = f"{many(len(rows), 'mask')} of {total:,} more than {BEYOND:g} px beyond the image, cut at its border"
        yield marks.point("warning", "mask-beyond-image", message, rows, masks=True)
    seen = np.flatnonzero((facts.areas > 0) & marks.clear)
    boxes = np.clip(marks.boxes[seen], 0, np.tile(marks.limits[seen], 2))
    around = facts.boxes[seen]
    iou = _pair_iou(boxes, around)
    off = np.abs(boxes - around).max(1) > BEYOND
    if len(rows := seen[off & (iou < AGREE)]):
        message = (
            f"{many(len(rows), 'box', 'boxes')} of {total:,} that disagree with their mask: IoU with the box around "
            f"its pixels under {AGREE:g}; compute the boxes from the masks, or mend the masks"
        )
        yield marks.point(grade(len(rows), total, DEFECTS), "box-off-mask", message, rows, masks=True)
    stated, counted = marks.areas[seen], facts.areas[seen]
    wrong = (np.minimum(stated, counted) < AGREE * np.maximum(stated, counted)) & (np.abs(stated - counted) > 16)
    if len(rows := seen[wrong]):
        message = (
            f"{many(len(rows), 'stated area')} of {total:,} more than {1 - AGREE:.0%} off the mask's pixels, by which "
            "COCO's metrics tell small, medium and large; compute the areas from the masks"
        )

        def areas(row: int) -> str:
            return f"{marks.called(row)}: area {marks.areas[row]:.6g}, mask {facts.areas[row]:.6g} px"

        yield marks.point("warning", "area-off-mask", message, rows, areas, masks=True)


def facts_at(marks: Marks, input_size: int) -> ObjectFacts:
    """Numbers and sizes of the objects, at an input of that height and width."""
    clear = marks.clear
    per_image = np.bincount(marks.image[clear], minlength=len(marks.entries))
    bins = np.floor(2 * np.log2((_sides(marks)[clear] * input_size).clip(1))).astype(int)
    readable = np.array([isinstance(look, Picture) for look in marks.looks], bool)
    return ObjectFacts(
        input_size=input_size,
        images={split: int((readable & (marks.splits == split)).sum()) for split in TRAINING_SPLITS},
        negatives={split: int(((per_image == 0) & (marks.splits == split)).sum()) for split in TRAINING_SPLITS},
        median=float(np.median(per_image)) if len(per_image) else 0.0,
        most=int(per_image.max(initial=0)),
        sides={
            split: tuple(np.bincount(bins[marks.splits[marks.image[clear]] == split]).tolist())
            for split in TRAINING_SPLITS
        },
    )


def check_sizes(marks: Marks, input_size: int) -> Iterator[Finding]:
    """Objects too small or too many for the network, or larger than they need be."""
    clear = marks.clear
    rows = np.flatnonzero(clear & (_sides(marks) * input_size < SMALL))
    total = int(clear.sum())
    if len(rows) > DEFECTS * total:
        better = _input_for(marks, SMALL)
        remedy = (
            f"use an input of {better} px, where it is under {DEFECTS:.0%}, for {(better / input_size) ** 2:.1f} times "
            "the work, or cut the images into tiles"
            if better <= LARGEST_INPUT
            else f"cut the images into tiles, for an input would have to be of {better:,} px to bring it under "
            f"{DEFECTS:.0%}"
        )
        message = f"{len(rows) / total:.0%} of the boxes are under {SMALL} px at {input_size} px input: {remedy}"
        yield marks.point("warning", "small-objects", message, rows)
    elif total and (better := _input_for(marks, 4 * SMALL)) <= input_size / 2:
        message = (
            f"objects are large: at {better} px input {1 - DEFECTS:.0%} would still be {4 * SMALL} px and more, for "
            f"{(better / input_size) ** 2:.2f} of the work at {input_size} px"
        )
        yield finding("note", "large-objects", message, [])
    per_image = np.bincount(marks.image[clear], minlength=len(marks.entries))
    if len(full := np.flatnonzero(per_image > KEPT)):
        message = (
            f"{many(len(full), 'image')} with more than {KEPT} objects, of which {KEPT} can be found, for no more "
            "detections are kept; cut such images into tiles"
        )
        examples = [Example((marks.entries[i].path,), f"{per_image[i]:,} objects") for i in full.tolist()]
        yield finding("warning", "crowded-images", message, examples)


def _sides(marks: Marks) -> Floats:
    """The smaller side of each box, cut at its image, over the longer side of the image (N,)."""
    cut = np.minimum(marks.boxes[:, 2:], marks.limits) - marks.boxes[:, :2].clip(0)
    return cut.min(1) / marks.limits.max(1)  # what `frames.fit` makes of it, but for rounding


def _input_for(marks: Marks, side: float) -> int:
    """The least input, a multiple of 32, at which at most `DEFECTS` of the objects have a smaller side under `side`."""
    needed = np.quantile(side / _sides(marks)[marks.clear], 1 - DEFECTS, method="higher")
    return 32 * ceil(needed / 32 - 1e-6)
