"""Checks on maps: the files that give each pixel a class, or a segment."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from featherbone.data.doctor.image_checks import report_copies
from featherbone.data.doctor.table import ImageRow, Table
from featherbone.data.findings import MAX_EXAMPLES, SPOILS, Example, Finding, finding, listed, many, report
from featherbone.data.formats.masks import MaskSplit, binary_message
from featherbone.data.formats.panoptic import PanopticSplit
from featherbone.data.split import PanopticSegment
from featherbone.ops.label_maps import IGNORE

BLURRED = 0.25
"""Minimum `blur` of a map that was smoothed; drawn maps have next to none."""
ALIKE = 0.1
"""Share of the pixels that may have another class on a copy."""
VOID = 0.5
"""Share of unlabelled pixels from which on an image is reported."""
NEAR = 2
"""Pixels by which a stated box may differ from the one on the map."""
ABOUT = 0.01
"""Share by which a stated area may differ from the one on the map."""


def check_maps(table: Table) -> Iterator[Finding]:
    """Maps that cannot be read, or have another size than their image."""
    broken = [image.example(image.map.fault) for image in table.images if image.map.fault]
    text = "that cannot be read, skipped with the image; replace them"
    yield from report(SPOILS, "unreadable-map", broken, "map", text, len(table))
    other = []
    for image, picture in table.readable.items():
        if image.stated_size not in (None, picture.size):
            turned = ", the size of the image before EXIF turns it upright" * (image.stated_size == picture.size[::-1])
            other.append(image.example("{} x {}, its map {} x {}".format(*picture.size, *image.stated_size) + turned))
    text = (
        "of another size than the image, skipped with it; save maps in the size of the upright image, without "
        "interpolation"
    )
    yield from report(SPOILS, "size-mismatch", other, "map", text, len(table))


def check_values(table: Table) -> Iterator[Finding]:
    """Values of class maps that are not a class, blurred maps, and maps of 0 and 255."""
    codes = [images.code for images in table.sources.values() if isinstance(images, MaskSplit)]
    total = len(table.readable)
    coloured = [image.example() for image in table.readable if image.map.coloured]
    if coloured and codes[0].colours is None:
        text = (
            "in colours, but classes.txt lists none; write one class per line, with its name and #rrggbb, or save "
            "indices"
        )
        yield from report("error", "colours-unknown", coloured, "mask", text)
        return
    blurred = [image for image in table.readable if image.map.blur >= BLURRED]
    text = (
        "whose borders pass through values between two others: they were drawn with smooth borders, or scaled with "
        "interpolation, which creates wrong classes; save them with hard borders, and scale with nearest neighbours"
    )
    examples = [image.example(f"{image.map.blur:.0%} of the borders") for image in blurred]
    yield from report("error", "smooth-borders", examples, "mask", text, total)
    if both := _binary(table):
        yield finding("error", "zero-and-255", binary_message(total, codes[0]), [image.example() for image in both])
    unknown = [image.map for image in table.readable if image.map.unknown]
    times = sum((Counter(facts.unknown) for facts in unknown), Counter[int]())
    form = "#{:06x}" if unknown and unknown[0].coloured else "{}"
    text = (
        f"with values that are not a class: {listed([form.format(value) for value, _ in times.most_common()])}; list "
        "them in classes.txt, ignore a value with --ignore-index, or fix the masks"
    )

    def note(values: Mapping[int, int]) -> str:
        return f"{many(sum(values.values()), 'pixel')} of {many(len(values), 'unknown value')}"

    yield from report("error", "unknown-values", _show_unknown(table, note), "mask", text, total)


def _binary(table: Table) -> list[ImageRow]:
    """Images whose maps hold 0 and 255, where all maps hold nothing else and 255 is not a class."""
    images = [(image, image.source.code) for image in table.readable if isinstance(image.source, MaskSplit)]
    if not all(not image.map.coloured and image.map.values <= {0, 255} for image, _ in images):
        return []
    return [image for image, code in images if len(image.map.values) == 2 and code.values[255] == IGNORE]


def _show_unknown(table: Table, note: Callable[[Mapping[int, int]], str]) -> list[Example]:
    """Images with unknown values on their maps, with captions by `note(unknown)`, the first with these pixels shown."""
    examples: list[Example] = []
    for image in table.readable:
        if unknown := image.map.unknown:
            shown = (table.draw(image, values=list(unknown)),) if len(examples) < MAX_EXAMPLES else ()
            examples.append(Example((image.name,), note(unknown), shown))
    return examples


def check_shown(table: Table) -> Iterator[Finding]:
    """Whether the maps of a split contain classes, and those of training two."""
    if table.task != "semantic" or _binary(table):
        return
    for split in dict.fromkeys(table.splits.tolist()):
        shown = np.flatnonzero(table.counts[split]).tolist()
        if not shown:
            message = f"no pixel of the {split} images has a class; annotate some"
            yield Finding("error", f"no-class-in-{split}", message, int((table.splits == split).sum()))
        elif split == "train" and len(shown) == 1:
            name = table.classes[shown[0]]
            message = f"training masks of one class only, {name}; annotate a second one, such as background"
            yield Finding("error", "one-class", message, 1)


def check_void(table: Table) -> Iterator[Finding]:
    """Unlabelled pixels."""
    shares = sorted(((image.map.void, image) for image in table.readable), key=lambda pair: -pair[0])
    empty = [image.example() for share, image in shares if share == 1]
    text = "without a labelled pixel, which training cannot use; remove them"
    yield from report("warning", "all-void", empty, "image", text)
    large = [image.example(f"{share:.0%} unlabelled") for share, image in shares if VOID <= share < 1]
    text = "with at least half of the pixels unlabelled; check that these are meant to be ignored"
    yield from report("warning", "much-void", large, "image", text, len(shares))
    if shares and (mean := float(np.mean([share for share, _ in shares]))) > 0:
        yield Finding("note", "void", f"{mean:.1%} of the pixels are unlabelled and ignored", 0)


def check_map_copies(table: Table) -> Iterator[Finding]:
    """Copies of an image with another map, in both splits, and redundant ones."""

    def alike(one: ImageRow, other: ImageRow) -> bool:
        first, second = one.map.classes, other.map.classes
        apart = sum(abs(first.get(label, 0) - second.get(label, 0)) for label in {*first, *second})
        return apart <= 2 * ALIKE * sum(first.values())

    return report_copies(table, alike, "copies-mapped-differently", "classes")


def check_segments(table: Table) -> Iterator[Finding]:
    """Ids, areas and boxes of segments as the file states them, against those on the map."""

    def note(values: Mapping[int, int]) -> str:
        return f"{many(len(values), 'id')}, as {min(values)}, on {many(sum(values.values()), 'pixel')}"

    text = (
        "with ids that segments_info does not list; list them, or paint them black. Ids are R + 256 G + 65536 B; a "
        "smoothed or JPEG map creates such ids, too"
    )
    yield from report("error", "unlisted-ids", _show_unknown(table, note), "map", text, len(table.readable))
    gone, areas, boxes, shown = list[Example](), list[Example](), list[Example](), 0
    for image, part, area, box in _segments(table):
        stated_area, stated_box = part.stated.get("area", area), part.stated.get("bbox", box)
        if not area:
            gone.append(_point(image, part))
            continue
        shown += 1
        if abs(stated_area - area) > ABOUT * area:
            areas.append(_point(image, part, f"{area:,} pixels, stated {stated_area:,}"))
        if not _near(stated_box, box):
            boxes.append(_point(image, part, f"at {list(box)}, stated {stated_box}"))
    text = "that the map does not contain; remove them from the json"
    yield from report(SPOILS, "absent-segments", gone, "segment", text, shown + len(gone))
    text = "with another area on the map than stated, which other tools rely on; count the pixels again"
    yield from report("warning", "area-mismatch", areas, "segment", text, shown)
    text = "whose box, x y width height, does not enclose its pixels; compute it again"
    yield from report("warning", "box-mismatch", boxes, "segment", text, shown)


def check_stuff(table: Table) -> Iterator[Finding]:
    """Stuff in several segments, and crowds."""
    source = next(iter(table.sources.values()))
    stuff = source.stuff if isinstance(source, PanopticSplit) else ()
    segments = _segments(table)
    times = Counter((image, part.label) for image, part, area, _ in segments if area and part.label in stuff)
    several = [image.example(f"{n} of {table.classes[label]}") for (image, label), n in times.items() if n > 1]
    text = (
        "two or more segments of one kind of stuff on an image; if they can be counted, set isthing to 1, else give "
        "them one id"
    )
    yield from report("warning", "several-stuff", several, "time", text)
    crowds = [(image, part) for image, part, _, _ in segments if part.crowd]
    text = "of things (groups annotated as one), not trained on and not counted"
    points = [_point(image, part, table.classes[part.label]) for image, part in crowds]
    yield from report("note", "crowds", points, "crowd", text)
    odd = [_point(image, part) for image, part in crowds if part.label in stuff]
    text = "of stuff, which is not counted anyway; set iscrowd to 0"
    yield from report("warning", "stuff-crowds", odd, "crowd", text)


def _segments(table: Table) -> list[tuple[ImageRow, PanopticSegment, int, tuple[int, int, int, int]]]:
    """Every segment of the readable images, with the image, its pixels on the map and their box."""
    return [(image, *segment) for image in table.readable for segment in image.map.segments]


def _point(image: ImageRow, part: PanopticSegment, note: str = "") -> Example:
    return image.example(f"segment {part.id}" + f": {note}" * bool(note))


def _near(stated: Sequence[float], true: tuple[int, int, int, int]) -> bool:
    if not isinstance(stated, list | tuple) or len(stated) != 4:
        return False
    (x, y, w, h), (tx, ty, tw, th) = stated, true
    return max(abs(x - tx), abs(y - ty), abs(x + w - tx - tw), abs(y + h - ty - th)) <= NEAR
