"""Checks on objects: their annotations, boxes and masks, and their sizes at the network's input."""

from collections import Counter
from collections.abc import Iterator
from math import ceil

import numpy as np

from featherbone.data.doctor.image_checks import report_copies
from featherbone.data.doctor.table import Bools, Floats, ImageRow, Ints, Table
from featherbone.data.findings import (
    MOST,
    SPOILS,
    Example,
    Finding,
    ObjectFacts,
    Severity,
    listed,
    many,
    report,
)
from featherbone.data.formats.format import Opened
from featherbone.data.layouts import TRAINING_SPLITS
from featherbone.data.object_split import ObjectSplit

BEYOND = 2.0
"""Pixels by which a box or mask may exceed its image, and by which edges of the two may differ."""
TINY = 2.0
"""Smaller side of a box in image pixels below which it is taken for a mistake."""
WHOLE = 0.99
"""Share of the image from which on a box covers the whole image."""
SAME = 0.95
"""IoU above which two boxes of an image are one."""
NEIGHBOURS = 50
"""Maximum number of boxes that a box is compared with to find those in its place."""
AGREE = 0.8
"""Minimum IoU of a box with its mask's box, and minimum ratio of a stated area to the mask's."""
DEFECTS = 0.05
"""Share of the objects from which on defects that blur training are errors, and habits warnings."""
ELONGATED = 8
"""Ratio of the sides above which a box is out of reach of the usual anchors."""
SMALL = 8
"""Smaller side at the input in pixels, the finest stride of the usual heads, below which detection is poor."""
KEPT = 100
"""Maximum number of detections per image."""
MAX_INPUT = 1536
"""Where small objects need a larger input, tiles are the better way."""
COMPARED = 1000
"""Maximum number of objects in an image for which each is compared with each of a copy."""


def check_listing(split: str, opened: Opened) -> Iterator[Finding]:
    """What the folders contain against what the files list."""
    missing = [Example((name,)) for name in opened.missing]
    text = f"listed for {split} but not there, skipped; restore the files, or correct names and folder"
    total = len(opened.images) + len(missing)
    yield from report(MOST, f"missing-in-{split}", missing, "image", text, total)
    text = (
        f"in the {split} folder that the annotations do not list, skipped; list them, or, if they contain no object, "
        "train on them as background with --unlabelled negative"
    )
    yield from report("warning", f"unlisted-in-{split}", [Example((name,)) for name in opened.unlisted], "image", text)
    orphans = many(opened.orphans, "annotation")
    text = f"{orphans} for {split} of an image that is not listed, skipped; list the image or remove them"
    total = opened.orphans + (len(opened.images.table.labels) if isinstance(opened.images, ObjectSplit) else 0)
    yield from report(SPOILS, f"orphans-in-{split}", (), "", text, total, count=opened.orphans)
    for note in opened.notes:
        yield Finding("note", f"read-in-{split}", f"{split}: {note}", 1)


def check_annotations(table: Table) -> Iterator[Finding]:
    """Annotations that cannot be read, each with place, reason and remedy, and images listed more than once."""
    faults = [image.example(fault) for image in table.images for fault in image.faults]
    total = len(faults) + len(table.objects)
    text = "cannot be read; correct or remove them"
    yield from report("error", "unreadable-annotation", faults, "annotation", text, total)
    times = Counter((image.split, image.name) for image in table.images)
    twice = [Example((name,), many(count, "time")) for (_, name), count in times.items() if count > 1]
    text = (
        "listed more than once in a split, each time with a part of its objects, the rest of which count as "
        "background; join the entries"
    )
    yield from report(SPOILS, "listed-twice", twice, "image", text, len(table))


def check_presence(table: Table) -> Iterator[Finding]:
    """Splits and images without objects, and crowds."""
    objects = table.objects
    usable = np.array([image.usable for image in table.images], bool)
    shown = table.object_splits[objects.clear & usable[objects.image]]
    for split, count in Counter(table.splits.tolist()).items():
        if split not in shown:
            crowds = int((objects.crowd & (table.object_splits == split)).sum())
            remedy = "; annotate some"
            if crowds:
                remedy = f", but {many(crowds, 'crowd')}; if they are single objects, as CVAT's brush masks are, pass"
                remedy += " --crowds objects"
            message = f"no object on any of {many(count, 'image')} of {split}{remedy}"
            yield Finding("error", f"no-objects-in-{split}", message, 0)
    unfilled = [table.images[row] for row in np.flatnonzero(table.num_clear == 0).tolist()]
    empty = [image.example() for image in unfilled if not image.faults and objects.clear.any()]
    text = "without objects, used as background; check that no object was forgotten"
    yield from report("note", "negatives", empty, "image", text, len(table))
    text = "(groups annotated as one object), not trained on and not counted"
    yield from table.report("note", "crowds", objects.crowd, text, "crowd", total=0)


def check_ids(table: Table) -> Iterator[Finding]:
    """Ids of classes that are shifted, unknown or differ between the splits, and repeated ids of annotations."""
    class_ids = {
        split: dict(zip(images.category_ids, images.classes, strict=True))
        for split, images in table.sources.items()
        if isinstance(images, ObjectSplit)
    }
    first, *others = class_ids.values()
    clash = [
        Example((f"id {i}",), f"{first[i]} in training, {other[i]} in validation")
        for other in others
        for i in first.keys() & other.keys()
        if first[i] != other[i]
    ]
    text = "with another name in validation than in training; names are matched"
    yield from report("note", "ids-differ", clash, "class id", text)
    for split, names in class_ids.items():
        rows = np.flatnonzero(table.object_splits == split)
        used = {table.objects.category_ids[row] for row in rows.tolist()}
        unknown = sorted(used - names.keys())
        if step := next((s for s in (1, -1) if unknown and all(i + s in names for i in used)), 0):
            message = (
                f"{split}: class ids run from {min(used)} to {max(used)}, but the classes are {min(names)} to "
                f"{max(names)}: all are shifted by one, so most objects have the name of another class; "
                f"{'add' if step > 0 else 'subtract'} 1 {'to' if step > 0 else 'from'} each"
            )
            yield from table.report("error", f"ids-shifted-in-{split}", rows, message)
        elif unknown:
            text = (
                f"in {split} with class ids that are not listed: {listed([str(i) for i in unknown])}; list the "
                "classes, or remove the objects"
            )
            wrong = rows[table.objects.labels[rows] < 0]
            yield from table.report("error", f"unknown-class-in-{split}", wrong, text, "object", len(rows))
        times = Counter(i for row in rows.tolist() if (i := table.objects.ids[row]) is not None)
        twice = [Example((f"annotation {i}",), many(count, "time")) for i, count in times.items() if count > 1]
        text = f"given more than once in {split}, of which other tools keep one; renumber the annotations"
        yield from report("warning", f"duplicate-ids-in-{split}", twice, "annotation id", text)


def check_boxes(table: Table) -> Iterator[Finding]:
    """Boxes that are empty, outside their image, or improbable."""
    objects = table.objects
    sides, limits, low, high = objects.sides, objects.limits, objects.boxes[:, :2], objects.boxes[:, 2:]
    filled: Bools = np.all(sides > 0, axis=1)
    within: Bools = filled & np.all((high > 0) & (low < limits), axis=1)
    wrong = [*_check_form(table)]
    yield from wrong
    text = "without width or height, skipped; correct or remove them"
    yield from table.report(SPOILS, "empty-box", ~filled, text, "box")
    text = "wholly outside the image, skipped; compare the sizes and names of images and annotations"
    yield from table.report(SPOILS, "outside-image", filled & ~within, text, "box")
    beyond: Bools = within & np.any((-low > BEYOND) | (high - limits > BEYOND), axis=1) & objects.sized & (not wrong)
    text = (
        f"more than {BEYOND:g} px beyond the image, clipped to it; if the clipped box does not fit the object, it was "
        "drawn on an image of another size"
    )
    yield from table.report("warning", "beyond-image", beyond, text, "box")
    tiny = within & (sides.min(1) < TINY) & ~objects.crowd & objects.sized
    text = f"under {TINY:g} px wide or high, mostly annotation mistakes; remove them"
    yield from table.report("warning", "tiny-box", tiny, text, "box")
    whole = within & ~objects.crowd & (objects.clipped_sides.prod(1) >= WHOLE * limits.prod(1))
    severity: Severity = "warning" if whole.sum() > DEFECTS * len(objects) else "note"
    text = "around the whole image; check that an object fills it"
    yield from table.report(severity, "whole-image-box", whole, text, "box")
    known = objects.clear & objects.sized
    elongated, total = known & (sides.max(1) > ELONGATED * sides.min(1)), int(known.sum())
    if elongated.sum() > DEFECTS * total:
        message = (
            f"{elongated.sum() / total:.0%} of the boxes are more than {ELONGATED} times as long as wide, but anchors "
            "have ratios up to 3; annotate shorter parts, or expect loose boxes"
        )
        yield from table.report("warning", "elongated-boxes", elongated, message)


def _check_form(table: Table) -> Iterator[Finding]:
    """Boxes that are not x y width height in pixels, in a whole split."""
    objects = table.objects
    over: Bools = np.any(objects.boxes[:, 2:] > objects.limits + BEYOND, axis=1)
    shares, corners = np.zeros(len(objects), bool), np.zeros(len(objects), bool)
    for split in TRAINING_SPLITS:
        rows = (objects.sides > 0).all(1) & (table.object_splits == split)
        if rows.any():
            low, sides, limits = objects.boxes[rows, :2], objects.sides[rows], objects.limits[rows]
            shares |= rows & bool(max(low.max(), sides.max()) <= 1 and limits.min() > 2)
            inside = ((sides > low) & (sides <= limits + BEYOND)).all()
            corners |= rows & over & bool(inside and over[rows].mean() > 0.2)
    message = "every box is between 0 and 1; COCO's are in pixels: multiply by the width and height of the image"
    yield from table.report("error", "boxes-normalised", shares, message)
    if not shares.any():
        message = (
            f"the boxes look like x1 y1 x2 y2: read as x y width height, {many(int(corners.sum()), 'box')} exceed "
            "their image; write the width and height in place of the second corner"
        )
        yield from table.report("error", "boxes-as-corners", corners, message)


def check_same_places(table: Table) -> Iterator[Finding]:
    """Two boxes in one place."""

    def both(one: int, other: int) -> str:
        return f"{table.object_name(one)}; {table.object_name(other)}"

    alike, other = _same_places(table)
    total = int(table.objects.clear.sum())
    text = f"annotated twice: another box of the class has an IoU over {SAME:.0%} with it; remove one"
    yield from table.report(MOST, "duplicate-box", alike, text, "object", total, both)
    text = (
        f"annotated with two classes, boxes with an IoU over {SAME:.0%}; keep the right one, since a box has one class"
    )
    yield from table.report("warning", "two-class-box", other, text, "place", 0, both)


def _same_places(table: Table) -> tuple[Ints, Ints]:
    """Objects with a box of the same class, and with one of another class, whose IoU with theirs is over `SAME`.

    Pairs of rows (n, 2), for every box with the first found. Sides of two such boxes differ by less than `SAME`, so in
    the order of their left sides a box is compared with those that follow within that distance, `NEIGHBOURS` at most:
    where more are in one place, enough are found, and the time is linear in the number of boxes.
    """
    rows = np.flatnonzero(table.objects.clear)
    x1, y1, x2, y2 = table.objects.boxes[rows].T
    rows = rows[np.lexsort((rows, y2, x2, y1, x1, table.objects.image[rows]))]
    boxes, image, labels = table.objects.boxes[rows], table.objects.image[rows], table.objects.labels[rows]
    reach = boxes[:, 0] + (1 / SAME - 1) * (boxes[:, 2] - boxes[:, 0])
    alike, differing = np.full(len(rows), -1), np.full(len(rows), -1)
    left = np.arange(len(rows))
    for step in range(1, NEIGHBOURS + 1):
        left = left[left + step < len(rows)]
        left = left[(image[left] == image[left + step]) & (boxes[left + step, 0] <= reach[left])]  # the rest stays out
        right = left + step
        unknown = alike[right] < 0
        one, other = left[unknown], right[unknown]
        over = pair_iou(boxes[one], boxes[other]) > SAME
        same = labels[one] == labels[other]
        for partner, new in ((alike, over & same), (differing, over & ~same)):
            new &= partner[other] < 0
            partner[other[new]] = one[new]

    def pairs(partner: Ints) -> Ints:
        found = np.flatnonzero(partner >= 0)
        return np.sort(np.column_stack([rows[partner[found]], rows[found]]), axis=1)

    return pairs(alike), pairs(differing)


def pair_iou(boxes: Floats, others: Floats) -> Floats:
    """Intersection over union of boxes x1 y1 x2 y2, not empty, (..., 4) and (..., 4), broadcast against each other."""
    low, high = np.maximum(boxes[..., :2], others[..., :2]), np.minimum(boxes[..., 2:], others[..., 2:])
    inner = (high - low).clip(0).prod(-1)
    areas, other_areas = ((x[..., 2:] - x[..., :2]).prod(-1) for x in (boxes, others))
    return inner / (areas + other_areas - inner)


def check_mask_forms(table: Table) -> Iterator[Finding]:
    """Objects without a mask, or with one that cannot be read."""
    if table.task != "instance":
        return
    objects = table.objects
    faults = np.array([bool(fault) for fault in objects.mask_faults], bool)

    def note(row: int) -> str:
        return f"{table.object_name(row)}: {objects.mask_faults[row]}"

    text = "cannot be read; write polygons or run lengths as in COCO"
    yield from table.report("error", "unreadable-mask", faults, text, "mask", note=note)
    text = "without a mask, which instance segmentation needs for every object; add or remove, or train for detection"
    yield from table.report("error", "no-mask", ~objects.has_shape & ~objects.crowd, text, "object")


def check_masks(table: Table) -> Iterator[Finding]:
    """Masks against their images, boxes and stated areas."""
    if table.task != "instance":
        return
    objects = table.objects
    text = "without a pixel; draw the mask or remove the object"
    yield from table.report(SPOILS, "empty-mask", objects.mask_areas == 0, text, "mask")
    text = f"more than {BEYOND:g} px beyond the image, clipped to it"
    yield from table.report("warning", "mask-beyond-image", objects.mask_beyond > BEYOND, text, "mask", masks=True)
    seen = np.flatnonzero((objects.mask_areas > 0) & objects.clear)
    boxes, around = np.clip(objects.boxes[seen], 0, np.tile(objects.limits[seen], 2)), objects.mask_boxes[seen]
    off = seen[(np.abs(boxes - around).max(1) > BEYOND) & (pair_iou(boxes, around) < AGREE)]
    text = (
        f"that disagree with their mask, with an IoU under {AGREE:g} with the box around its pixels; compute the boxes "
        "from the masks, or fix the masks"
    )
    yield from table.report(DEFECTS, "box-off-mask", off, text, "box", masks=True)
    stated, counted = objects.areas[seen], objects.mask_areas[seen]
    wrong = (np.minimum(stated, counted) < AGREE * np.maximum(stated, counted)) & (np.abs(stated - counted) > 16)

    def note(row: int) -> str:
        return f"{table.object_name(row)}: area {objects.areas[row]:.6g}, mask {objects.mask_areas[row]:.6g} px"

    text = (
        f"more than {1 - AGREE:.0%} off the mask's pixels; COCO's metrics group objects by it into small, medium and "
        "large: compute the areas from the masks"
    )
    yield from table.report("warning", "area-off-mask", seen[wrong], text, "stated area", note=note, masks=True)


def check_input_sizes(table: Table) -> Iterator[Finding]:
    """Objects that are small, large or numerous for the network's input."""
    objects, size = table.objects, table.input_size
    small, total = objects.clear & (objects.input_sides * size < SMALL), int(objects.clear.sum())
    if small.sum() > DEFECTS * total:
        better = _input_for(table, SMALL)
        remedy = (
            f"use an input of {better} px, where it is under {DEFECTS:.0%}, at {(better / size) ** 2:.1f} times the "
            "cost, or cut the images into tiles"
            if better <= MAX_INPUT
            else f"cut the images into tiles, since under {DEFECTS:.0%} would need an input of {better:,} px"
        )
        message = f"{small.sum() / total:.0%} of the boxes are under {SMALL} px at {size} px input: {remedy}"
        yield from table.report("warning", "small-objects", small, message)
    elif total and (better := _input_for(table, 4 * SMALL)) <= size / 2:
        message = (
            f"objects are large: at {better} px input {1 - DEFECTS:.0%} of them would still be {4 * SMALL} px or more, "
            f"at {(better / size) ** 2:.2f} times the cost of {size} px"
        )
        yield Finding("note", "large-objects", message, 0)
    rows = np.flatnonzero(table.num_clear > KEPT).tolist()
    full = [table.images[row].example(f"{table.num_clear[row]:,} objects") for row in rows]
    text = (
        f"with more than {KEPT} objects, but at most {KEPT} detections are kept per image; cut such images into tiles"
    )
    yield from report("warning", "crowded-images", full, "image", text)


def _input_for(table: Table, side: float) -> int:
    """The smallest input, a multiple of 32, at which at most `DEFECTS` of the objects have a side under `side`."""
    sides = table.objects.input_sides[table.objects.clear]
    return 32 * ceil(np.quantile(side / sides, 1 - DEFECTS, method="higher") / 32 - 1e-6)


def object_facts(table: Table) -> ObjectFacts:
    """Numbers of objects and their sizes at the input."""
    clear = table.objects.clear
    splits = table.object_splits[clear]
    per_image = table.num_clear
    bins = np.floor(2 * np.log2((table.objects.input_sides[clear] * table.input_size).clip(1))).astype(int)
    readable = [image.split for image in table.images if image.picture]
    return ObjectFacts(
        input_size=table.input_size,
        images={split: readable.count(split) for split in TRAINING_SPLITS},
        negatives={split: int(((per_image == 0) & (table.splits == split)).sum()) for split in TRAINING_SPLITS},
        median=float(np.median(per_image)) if len(per_image) else 0.0,
        most=int(per_image.max(initial=0)),
        sides={split: tuple(np.bincount(bins[splits == split]).tolist()) for split in TRAINING_SPLITS},
    )


def check_object_copies(table: Table) -> Iterator[Finding]:
    """Copies of an image with other objects, in both splits, and redundant ones."""
    rows = {image: row for row, image in enumerate(table.images)}

    def alike(one: ImageRow, other: ImageRow) -> bool:
        return _same_objects(table, rows[one], rows[other])

    return report_copies(table, alike, "copies-marked-differently", "objects")


def _same_objects(table: Table, one: int, other: int) -> bool:
    """Whether each object of either image has one of its class on the other, with an IoU above a half."""
    objects = table.objects
    rows, others = (np.flatnonzero((objects.image == image) & objects.clear) for image in (one, other))
    if len(rows) != len(others):
        return False
    boxes, other_boxes = (objects.boxes[r] / np.tile(objects.limits[r], 2) for r in (rows, others))
    if len(rows) > COMPARED:  # one by one in the order of their places
        orders = [np.lexsort((*x.T, objects.labels[r])) for x, r in ((boxes, rows), (other_boxes, others))]
        same = objects.labels[rows[orders[0]]] == objects.labels[others[orders[1]]]
        return bool(same.all() and np.abs(boxes[orders[0]] - other_boxes[orders[1]]).max() < 0.01)
    alike = objects.labels[rows][:, None] == objects.labels[others]
    match = (pair_iou(boxes[:, None], other_boxes[None]) > 0.5) & alike
    return bool(match.any(0).all() and match.any(1).all())
