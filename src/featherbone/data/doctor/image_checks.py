"""Checks on images and on the classes of a data set, for every task."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from featherbone.data.doctor.duplicates import find_copies
from featherbone.data.doctor.table import Bools, ImageRow, Picture, Table
from featherbone.data.findings import SPOILS, Example, Finding, finding, many, report
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


def check_classes(table: Table) -> Iterator[Finding]:
    """Classes by their numbers of images or objects in both splits, and by their names."""
    labels, thing = table.truth == "labels", "object" if table.truth == "objects" else "image"
    if labels and len(table.sources) < len(TRAINING_SPLITS):
        return  # one cannot be opened
    train, val = table.counts["train"], table.counts["val"]

    def where(which: Bools, counts: NDArray[np.int64] = train) -> list[Example]:
        return [Example((table.classes[k],), many(int(counts[k]), thing)) for k in np.flatnonzero(which).tolist()]

    if labels and np.count_nonzero(train) == 1:
        name = table.classes[int(train.argmax())]
        message = f"training images of one class only, {name}; two or more are needed, one folder per class"
        yield Finding("error", "one-class", message, 1)
    unused = [Example((table.classes[k],)) for k in np.flatnonzero(train + val == 0).tolist()]
    if labels:
        text = "without a readable image; add some or remove the class"
        yield from report("error", "empty-class", unused, "class", text)
    else:
        code, where_not = ("unused-class", "without an object") if thing == "object" else ("empty-class", "on no image")
        text = f"{where_not}, which cannot be trained; add {thing}s or remove the class"
        yield from report("warning", code, unused, "class", text, len(table.classes))
    unknown = where((train == 0) & (val > 0) & train.any(), val)
    text = "in validation only; add training images or remove them"
    yield from report("error" if labels else "warning", "class-only-in-val", unknown, "class", text)
    missing = where((train > 0) & (val == 0) & val.any())
    text = f"without a validation {thing}, so not evaluated; add some"
    yield from report("warning", "class-missing-in-val", missing, "class", text)
    few = where((train > 0) & (train < FEW))
    text = f"with fewer than {FEW} training {thing}s; add more or join classes"
    yield from report("warning", f"few-{thing}s", few, "class", text)
    present, max_ratio = train[train > 0], 10 if labels else 50
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
    pairs = [Example(tuple(names)) for names in alike.values() if len(names) > 1]
    text = "class names that differ only by case or spaces; join them if they mean the same"
    yield from report("warning", "alike-class-names", pairs, "", text)


def check_label_copies(table: Table) -> Iterator[Finding]:
    """Copies of an image in another class, in both splits, and redundant ones."""

    def note(one: ImageRow, other: ImageRow) -> str:
        return f"{table.classes[one.label]} or {table.classes[other.label]}?"

    conflicts, rest = compare_copies(table, lambda one, other: one.label == other.label, note, "class and split")
    text = "with a copy in another class; keep the right one"
    yield from report(SPOILS, "label-conflict", conflicts, "image", text, len(table.readable))
    yield from rest


def check_list_copies(table: Table) -> Iterator[Finding]:
    """Copies of an image with other labels, in both splits, and redundant ones."""

    def alike(one: ImageRow, other: ImageRow) -> bool:
        first, second = (image.source.truth(image.index) for image in (one, other))
        return bool((first == second).all())

    yield from report_copies(table, alike, "label-conflict", "labels")


def compare_copies(
    table: Table,
    alike: Callable[[ImageRow, ImageRow], bool],
    note: Callable[[ImageRow, ImageRow], str] = lambda one, other: "",
    same: str = "split",
) -> tuple[list[Example], list[Finding]]:
    """Copies whose annotations are not `alike`, and findings about copies in both splits and redundant ones.

    Redundant copies have the `same` properties, as the message calls them.
    """
    last = {(image.split, image.name): image for image in table.images}
    readable = [(image, image.picture.hash) for image in last.values() if image.picture]
    differing, leaks, spare = list[Example](), list[Example](), list[Example]()
    for group in find_copies([one for _, one in readable]):
        first, *others = images = [readable[at][0] for at in group]
        for other in others:
            names = first.name, other.name
            if not alike(first, other):
                differing.append(Example(names, note(first, other)))
            elif other.split == first.split:
                spare.append(Example(names))
        if train := [image.name for image in images if image.split == "train"]:
            leaks += [Example((train[0], image.name)) for image in images if image.split == "val"]
    text = "with a copy among the training images, so that the metrics will be too high; remove one of each pair"
    total = int((table.splits == "val").sum())
    findings = [*report(SPOILS, "leakage", leaks, "validation image", text, total)]
    text = f"of another image of the same {same}; remove them"
    return differing, [*findings, *report("note", "duplicates", spare, "copy", text)]


def report_copies(
    table: Table, alike: Callable[[ImageRow, ImageRow], bool], code: str, annotated: str
) -> Iterator[Finding]:
    """Copies of an image on which other objects or classes are `annotated`, in both splits, and redundant ones."""
    differing, rest = compare_copies(table, alike)
    text = (
        f"with a copy on which other {annotated} are annotated; keep the right one, or, if they are frames of one "
        "scene, keep those in one split"
    )
    yield from report("warning", code, differing, "image", text)
    yield from rest
