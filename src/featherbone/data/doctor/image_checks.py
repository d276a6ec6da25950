"""Checks on images and on the classes of a data set, for every task."""

from collections.abc import Callable, Iterator

import numpy as np

from featherbone.data.doctor.duplicates import find_copies
from featherbone.data.doctor.table import Bools, ImageRow, Picture, Table
from featherbone.data.findings import SPOILS, Example, Finding, Severity, finding, many, report
from featherbone.data.layouts import TRAINING_SPLITS

FEW = 10
"""Minimum number of training images, or objects, of a class that raises no warning."""
MAX_ASPECT = 3
"""Maximum ratio of an image's sides that raises no warning in classification."""
KINDS = {
    "sixteen-bit": "with 16 bits per channel, scaled to 8",
    "low-range": "with 16 bits per channel of which only the lower 10 or 12 are used, scaled by that range; of colour "
    "images only the upper 8 bits are read, so save those with 8 bits per channel, or scaled to 16",
    "palette": "with a palette, converted to RGB, transparent pixels on white",
    "transparent": "with transparency, placed on white",
    "grey": "in greyscale, repeated in red, green and blue",
    "cmyk": "in CMYK, converted to RGB without the colour profile",
    "other-colours": "in a colour space other than RGB, converted to RGB",
}
"""Images that are converted to 8-bit RGB, and how."""

Pair = tuple[ImageRow, ImageRow]


def check_readable(table: Table) -> Iterator[Finding]:
    """Images that cannot be read, splits without a usable one, and images that are converted to 8-bit RGB."""
    for split in dict.fromkeys(table.splits.tolist()):
        images = [image for image in table.images if image.split == split]
        if not any(image.usable for image in images):
            message = f"none of {many(images, 'image')} of {split} can be used; replace them"
            yield Finding("error", f"no-readable-image-in-{split}", message, len(images))
    broken = [image.example(image.error) for image in table.images if image.error]
    text = "cannot be read and will be skipped; replace or remove them"
    yield from report(SPOILS, "unreadable", broken, "file", text, len(table))
    for kind, text in KINDS.items():
        found = [image.example() for image in table.images if image.picture and image.picture.kind == kind]
        yield from report("note", kind, found, "image", text)


def check_input(table: Table) -> Iterator[Finding]:
    """Images that are small or narrow for the classifier's input, and images stored sideways."""

    def where(test: Callable[[Picture], bool]) -> list[Example]:
        pictures = [(image, picture) for image, picture in table.readable.items() if test(picture)]
        return [image.example("{} x {}".format(*picture.size)) for image, picture in pictures]

    text = (
        f"with a side shorter than half of the input's {table.input_size} pixels, so enlarged more than twice; use "
        "larger originals or a smaller input"
    )
    small = where(lambda picture: min(picture.size) < table.input_size / 2)
    yield from report("warning", "small-images", small, "image", text, len(table))
    text = (
        f"more than {MAX_ASPECT} times as long as wide, of which the centre crop keeps less than a third; crop them to "
        "the relevant part"
    )
    narrow = where(lambda picture: max(picture.size) > MAX_ASPECT * min(picture.size))
    yield from report("warning", "extreme-aspect", narrow, "image", text)
    text = "stored sideways or mirrored, turned upright by the EXIF orientation"
    yield from report("note", "exif-rotated", where(lambda picture: picture.orientation > 1), "image", text)


def check_annotated_sizes(table: Table) -> Iterator[Finding]:
    """Images of another size than annotated, and images that EXIF turns upright."""
    sideways, other, upright = list[Example](), list[Example](), list[Example]()
    for image, picture in table.readable.items():
        assert image.stated_size is not None, "objects state it"
        note = "{} x {}, annotated as {} x {}".format(*picture.size, *image.stated_size)
        if picture.size != image.stated_size:
            turned = picture.orientation >= 5 and picture.size == image.stated_size[::-1]
            (sideways if turned else other).append(image.example(note))
        elif picture.orientation > 1:
            upright.append(image.example(f"EXIF orientation {picture.orientation}"))
    text = (
        "that EXIF turns upright, but annotated as stored, so that the boxes do not fit; they are skipped. Turn the "
        "boxes, or save the images without EXIF orientation"
    )
    yield from report(SPOILS, "annotated-sideways", sideways, "image", text, len(table))
    text = "of another size than annotated, skipped; annotate these images, or scale the boxes with them"
    yield from report(SPOILS, "size-mismatch", other, "image", text, len(table))
    text = "turned upright by the EXIF orientation; the boxes are assumed to fit the upright image: check one"
    yield from report("note", "exif-rotated", upright, "image", text)


def check_labelled_classes(table: Table) -> Iterator[Finding]:
    """Classes of a classification set by their number of images."""
    if len(table.class_ids) < len(TRAINING_SPLITS):
        return  # one cannot be opened
    train, unused = table.counts["train"], _unused(table)
    if np.count_nonzero(train) == 1:
        name = table.classes[int(train.argmax())]
        message = f"training images of one class only, {name}; two or more are needed, one folder per class"
        yield Finding("error", "one-class", message, 1)
    yield from report("error", "empty-class", unused, "class", "without a readable image; add some or remove the class")
    yield from _check_balance(table, "image", 10, only_in_val="error")


def check_object_classes(table: Table) -> Iterator[Finding]:
    """Classes by their number of objects."""
    text = "without an object, which cannot be trained; add objects or remove the class"
    yield from report("warning", "unused-class", _unused(table), "class", text, len(table.classes))
    yield from _check_balance(table, "object", 50)


def check_mapped_classes(table: Table) -> Iterator[Finding]:
    """Classes by the number of maps that contain them."""
    text = "on no image, which cannot be trained; add images or remove the class"
    yield from report("warning", "empty-class", _unused(table), "class", text, len(table.classes))
    yield from _check_balance(table, "image", 50)


def _unused(table: Table) -> list[Example]:
    return [
        Example((name,)) for name, *counts in zip(table.classes, *table.counts.values(), strict=True) if not any(counts)
    ]


def _check_balance(table: Table, thing: str, max_ratio: int, only_in_val: Severity = "warning") -> Iterator[Finding]:
    """Classes by the number of `thing`s, images or objects, in both splits, and by their names."""
    train, val = table.counts["train"], table.counts["val"]

    def where(which: Bools, split: str = "train") -> list[Example]:
        counts = table.counts[split].tolist()
        return [Example((table.classes[k],), many(counts[k], thing)) for k in np.flatnonzero(which).tolist()]

    unknown = where((train == 0) & (val > 0) & train.any(), "val")
    text = "in validation only; add training images or remove them"
    yield from report(only_in_val, "class-only-in-val", unknown, "class", text)
    missing = where((train > 0) & (val == 0) & val.any())
    text = f"without a validation {thing}, so not evaluated; add some"
    yield from report("warning", "class-missing-in-val", missing, "class", text)
    few = where((train > 0) & (train < FEW))
    text = f"with fewer than {FEW} training {thing}s; add more or join classes"
    yield from report("warning", f"few-{thing}s", few, "class", text)
    present = train[train > 0]
    if len(present) and present.max() > max_ratio * present.min():
        message = (
            f"the largest class has {present.max():,} training {thing}s and the smallest {present.min():,}: over "
            f"{max_ratio} to 1, expect low accuracy on rare classes; add images of these"
        )
        ends = where((train == present.max()) | (train == present.min()))
        yield finding("warning", "class-imbalance", message, ends)
    alike: dict[str, list[str]] = {}
    for name in table.classes:
        alike.setdefault("".join(name.split()).casefold(), []).append(name)
    if pairs := [Example(tuple(names)) for names in alike.values() if len(names) > 1]:
        message = "class names that differ only by case or spaces; join them if they mean the same"
        yield finding("warning", "alike-class-names", message, pairs)


def check_label_copies(table: Table) -> Iterator[Finding]:
    """Copies of an image in another class, in both splits, and redundant ones."""
    conflicts, rest = compare_copies(table, lambda one, other: one.label == other.label, "class and split")
    examples = [
        Example((one.name, other.name), f"{table.classes[one.label]} or {table.classes[other.label]}?")
        for one, other in conflicts
    ]
    text = "with a copy in another class; keep the right one"
    yield from report(SPOILS, "label-conflict", examples, "image", text, len(table.readable))
    yield from rest


def compare_copies(
    table: Table, alike: Callable[[ImageRow, ImageRow], bool], same: str = "split"
) -> tuple[list[Pair], list[Finding]]:
    """Pairs of copies whose annotations are not `alike`, and findings about copies in both splits and redundant ones.

    Redundant copies have the `same` properties, as the message calls them.
    """
    last = {(image.split, image.name): image for image in table.images}
    readable = [(image, image.picture.hash) for image in last.values() if image.picture]
    differing, leaks, spare = list[Pair](), list[Pair](), list[Pair]()
    for group in find_copies([one for _, one in readable]):
        first, *others = images = [readable[at][0] for at in group]
        for other in others:
            if not alike(first, other):
                differing.append((first, other))
            elif other.split == first.split:
                spare.append((first, other))
        if train := [image for image in images if image.split == "train"]:
            leaks += [(train[0], image) for image in images if image.split == "val"]
    text = "with a copy among the training images, so that the metrics will be too high; remove one of each pair"
    total = int((table.splits == "val").sum())
    findings = [*report(SPOILS, "leakage", name_pairs(leaks), "validation image", text, total)]
    text = f"of another image of the same {same}; remove them"
    return differing, [*findings, *report("note", "duplicates", name_pairs(spare), "copy", text)]


def name_pairs(pairs: list[Pair]) -> list[Example]:
    """Examples of copies."""
    return [Example((one.name, other.name)) for one, other in pairs]
