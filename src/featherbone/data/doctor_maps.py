"""Every check on images and the files that name their pixels' classes or segments, before training."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featherbone.data.dataset import inspect_data
from featherbone.data.findings import (
    MAX_EXAMPLES,
    Examination,
    Example,
    Finding,
    Picture,
    check_balance,
    check_kinds,
    check_leaks,
    check_left,
    check_readable,
    finding,
    grade,
    illustrate,
    listed,
    look_at,
    many,
    sort_copies,
    to_jpeg,
    worst_first,
)
from featherbone.data.formats.format import Reading
from featherbone.data.formats.masks import MaskSplit, binary_message
from featherbone.data.label_files import Code, Values
from featherbone.data.layouts import TRAINING_SPLITS
from featherbone.data.map_files import palette
from featherbone.data.scan import look_at_each
from featherbone.errors import BadData, BadImage
from featherbone.ops.label_maps import IGNORE

IMBALANCE = 50
"""A class on more than so many times the images of the rarest is a warning."""
BLURRED = 0.25
"""Share of the changes from pixel to pixel that pass through a value between two others, from which a mask is blurred:
drawn masks have next to none."""
ALIKE = 0.1
"""Share of the pixels that may have another class on a copy."""
VOID = 0.5
"""Share of an image without a class from which it is told."""
SIDE = 220
RED = (235, 40, 40)


@dataclass(frozen=True)
class MapFacts:
    """What is kept of one file of classes."""

    fault: str = ""
    """Why it cannot be read, if so."""
    size: tuple[int, int] = (0, 0)
    """Height and width."""
    values: Mapping[int, int] = field(default_factory=dict)
    """Pixels by value."""
    classes: Mapping[int, int] = field(default_factory=dict)
    """Pixels by class; `IGNORE` and -1 for none."""
    coloured: bool = False
    blur: float = 0.0
    """Share of the changes from pixel to pixel that pass through a value between two others."""


@dataclass(frozen=True)
class Mapped:
    """The images of both splits with their maps, one after another."""

    names: tuple[str, ...]
    splits: tuple[str, ...]
    looks: tuple[Picture | str, ...]
    facts: tuple[MapFacts, ...]
    draw: Callable[[int, NDArray[np.bool_] | None], bytes]
    """A small JPEG file of an image under its map, or of the pixels of a mask; empty where it cannot be read."""

    def readable(self) -> list[int]:
        """Indices of images that can be read with their maps."""
        pairs = zip(self.looks, self.facts, strict=True)
        return [i for i, (look, fact) in enumerate(pairs) if isinstance(look, Picture) and not fact.fault]


def examine_semantic(data: Path, val_share: float = 0.2, seed: int = 0, **reading: Any) -> Examination:
    """Read every image and mask of `data` once and report all that is wrong; a problem never ends the examination.

    `reading` are fields of `Reading`, by which masks are read; images are split by `val_share` and `seed`.
    """
    opened, findings = inspect_data(data, "semantic", val_share, seed, Reading(**reading))
    splits = {split: images for split, images in opened.items() if isinstance(images, MaskSplit)}
    code = next((images.code for images in splits.values()), Code((), {}))
    mapped = gather_maps(splits, _facts, _draw)
    findings += check_maps(mapped)
    findings += _check_values(mapped, splits, code)
    return conclude(str(data), "semantic", code.names, mapped, findings)


def add_up(labels: Sequence[int], counts: Sequence[int]) -> dict[int, int]:
    """Pixels by class from counts and their classes."""
    total: dict[int, int] = {}
    for label, count in zip(labels, counts, strict=True):
        total[label] = total.get(label, 0) + count
    return total


def gather_maps(
    splits: Mapping[str, Any], facts: Callable[[Any, int], MapFacts], draw: Callable[..., Image.Image]
) -> Mapped:
    """Read every image and map of the splits, by `facts(images, index)`; `draw(images, index, mask)` shows them."""
    looks: list[Picture | str] = []
    known: list[MapFacts] = []
    for split, images in splits.items():

        def look(index: int, images: Any = images) -> tuple[Picture | str, MapFacts]:
            return look_at(images, index), facts(images, index)

        for picture, fact in look_at_each(images, look, f"examining {split}"):
            looks.append(picture)
            known.append(fact)
    places = [(images, i) for images in splits.values() for i in range(len(images))]

    def show(index: int, mask: NDArray[np.bool_] | None) -> bytes:
        try:
            return to_jpeg(draw(*places[index], mask))
        except (BadData, BadImage):
            return b""

    names = tuple(images.name(i) for images, i in places)
    of = tuple(split for split, images in splits.items() for _ in range(len(images)))
    return Mapped(names, of, tuple(looks), tuple(known), show)


def conclude(data: str, task: str, classes: Sequence[str], mapped: Mapped, found: list[Finding]) -> Examination:
    """The examination, with what is checked of all maps, and pictures for what has none."""
    present = {split: np.zeros(len(classes), np.int64) for split in TRAINING_SPLITS}
    for i in mapped.readable():
        present[mapped.splits[i]][[k for k in mapped.facts[i].classes if 0 <= k < len(classes)]] += 1
    if task == "semantic" and "zero-and-255" not in {one.code for one in found}:
        found += _check_shown(classes, mapped, present)
    findings = [*found, *_check_void(mapped), *_check_presence(classes, present["train"], present["val"])]
    findings += _check_copies(mapped)
    places = {name: i for i, name in reversed(list(enumerate(mapped.names)))}

    def draw(name: str) -> bytes:
        return mapped.draw(places[name], None) if name in places else b""

    counts = {split: tuple(present[split].tolist()) for split in TRAINING_SPLITS}
    return Examination(data, tuple(classes), counts, illustrate(worst_first(findings), draw))


def check_maps(mapped: Mapped) -> Iterator[Finding]:
    """Files of both kinds, each for itself and against the other."""
    names, total = mapped.names, len(mapped.names)
    yield from check_readable(names, mapped.looks)
    if broken := [Example((names[i],), fact.fault) for i, fact in enumerate(mapped.facts) if fact.fault]:
        message = f"{many(broken, 'map')} of {total:,} that cannot be read, left out with the image; replace them"
        yield finding(grade(len(broken), total), "unreadable-map", message, broken)
    off: list[Example] = []
    for i in mapped.readable():
        look, size = mapped.looks[i], mapped.facts[i].size
        if isinstance(look, Picture) and size != (look.height, look.width):
            turned = ", which is the image before EXIF turns it upright" if size == (look.width, look.height) else ""
            note = f"{look.width} x {look.height}, its map {size[1]} x {size[0]}{turned}"
            off.append(Example((names[i],), note))
    odd = {example.names[0] for example in off}
    yield from check_left(mapped.splits, (i for i in mapped.readable() if names[i] not in odd))
    if off:
        message = (
            f"{many(off, 'map')} of {total:,} of another size than the image, left out with it; save maps in the size "
            "of the upright image, without interpolation"
        )
        yield finding(grade(len(off), total), "size-mismatch", message, off)
    yield from check_kinds(names, mapped.looks)


def _check_shown(classes: Sequence[str], mapped: Mapped, present: Mapping[str, NDArray[np.int64]]) -> Iterator[Finding]:
    """Whether maps of a split show classes at all, and those of training two; `present` are images of each (K,)."""
    for split in dict.fromkeys(mapped.splits):
        shown = np.flatnonzero(present[split]).tolist()
        if not shown:
            message = f"no pixel of the {split} images has a class; mark some"
            yield Finding("error", f"no-class-in-{split}", message, mapped.splits.count(split))
        elif split == "train" and len(shown) == 1:
            message = f"training masks of one class only, {classes[shown[0]]}; mark a second one, as background"
            yield Finding("error", "one-class", message, 1)


def _check_void(mapped: Mapped) -> Iterator[Finding]:
    """Pixels of which nothing is known."""
    shares = {i: _void_share(mapped.facts[i]) for i in mapped.readable()}
    empty = [Example((mapped.names[i],)) for i, value in shares.items() if value == 1]
    if empty:
        message = f"{many(empty, 'image')} of which no pixel has a class, so nothing is learned from them; remove them"
        yield finding("warning", "all-void", message, empty)
    large = sorted((i for i, value in shares.items() if VOID <= value < 1), key=lambda i: -shares[i])
    if large:
        message = (
            f"{many(large, 'image')} of {len(shares):,} without a class on half of their pixels or more; check that "
            "these are meant to be ignored"
        )
        examples = [Example((mapped.names[i],), f"{shares[i]:.0%} without a class") for i in large]
        yield finding("warning", "much-void", message, examples)
    if shares and (mean := float(np.mean(list(shares.values())))) > 0:
        yield Finding("note", "void", f"{mean:.1%} of the pixels have no class and are ignored", 0)


def _void_share(fact: MapFacts) -> float:
    without = sum(fact.classes.get(label, 0) for label in (-1, IGNORE))
    return without / max(sum(fact.classes.values()), 1)


def _check_presence(classes: Sequence[str], train: NDArray[np.int64], val: NDArray[np.int64]) -> Iterator[Finding]:
    """Classes by the number (K,) of images that show them."""
    if unused := [Example((classes[i],)) for i in np.flatnonzero((train == 0) & (val == 0)).tolist()]:
        message = (
            f"{many(unused, 'class', 'classes')} of {len(classes):,} on no image: nothing can be learned of them; add "
            "images or remove the class"
        )
        yield finding("warning", "empty-class", message, unused)
    yield from check_balance(classes, train, val, "image", IMBALANCE)


def tint(image: Image.Image, labels: NDArray[np.integer], mask: NDArray[np.bool_] | None) -> Image.Image:
    """A small picture: an image half in the colours of its classes (H, W), or dark but for a mask in red."""
    height, width = labels.shape
    scale = SIDE / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    below = np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float32)
    if mask is None:
        colours = np.array(palette(IGNORE), np.float32)[labels.clip(0, IGNORE).astype(np.uint8)]
        above = Image.fromarray(colours.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        return Image.fromarray((0.5 * below + 0.5 * np.asarray(above)).astype(np.uint8))
    seen = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)) > 0
    shown = np.where(seen[..., None], np.array(RED, np.float32), 0.45 * below)
    return Image.fromarray(shown.astype(np.uint8))


def blur_of(values: Values) -> float:
    """Share of the changes along rows that pass through a single pixel of a value between its neighbours'."""
    before, here, after = values[:, :-2], values[:, 1:-1], values[:, 2:]
    changes = int((here != after).sum())
    between = ((before < here) & (here < after)) | ((before > here) & (here > after))
    return float(between.sum() / changes) if changes else 0.0


def _facts(images: MaskSplit, index: int) -> MapFacts:
    path = images.pairs[index][1]
    try:
        values, coloured = images.code.read(images.root / path, path)
    except BadImage as error:
        return MapFacts(str(error))
    known, counts = np.unique(values, return_counts=True)
    labels = images.code.classes(known, coloured).tolist()
    facts = dict(zip(known.tolist(), counts.tolist(), strict=True)), add_up(labels, counts.tolist())
    return MapFacts("", (values.shape[0], values.shape[1]), *facts, coloured, blur_of(values))


def _draw(images: MaskSplit, index: int, mask: NDArray[np.bool_] | None) -> Image.Image:
    path = images.pairs[index][1]
    return tint(images.image(index), images.code.classes(*images.code.read(images.root / path, path)), mask)


def _check_values(mapped: Mapped, splits: Mapping[str, MaskSplit], code: Code) -> Iterator[Finding]:
    """What the values of the masks mean, or do not."""
    readable = mapped.readable()
    coloured = [i for i in readable if mapped.facts[i].coloured]
    if coloured and code.colours is None:
        message = (
            f"{many(coloured, 'mask')} in colours, but classes.txt names none; write the name and #rrggbb of a class a "
            "line, or save indices"
        )
        yield finding("error", "colours-unknown", message, [Example((mapped.names[i],)) for i in coloured])
        return
    yield from _check_blur(mapped, readable)
    two = [i for i in readable if not mapped.facts[i].coloured and {*mapped.facts[i].values} <= {0, 255}]
    both = [i for i in two if len(mapped.facts[i].values) == 2]
    if both and len(two) == len(readable) and code.values[255] == IGNORE:
        message = binary_message(len(two), code)
        yield finding("error", "zero-and-255", message, [Example((mapped.names[i],)) for i in both])
    images = [(part, i) for part in splits.values() for i in range(len(part))]
    odd: dict[int, int] = Counter()
    where: list[tuple[int, list[int]]] = []
    for i in readable:
        fact = mapped.facts[i]
        unknown = {v: n for v, n in fact.values.items() if v not in code.table(fact.coloured)}
        if unknown:
            odd.update(unknown)
            where.append((i, list(unknown)))
    if not where:
        return
    colours = mapped.facts[where[0][0]].coloured
    told = listed([f"#{v:06x}" if colours else str(v) for v, _ in Counter(odd).most_common()])
    examples = []
    for i, values in where[:MAX_EXAMPLES]:
        part, index = images[i]
        path = part.pairs[index][1]
        mask = np.isin(part.code.read(part.root / path, path)[0], values)
        note = f"{many(int(mask.sum()), 'pixel')} of {many(values, 'unknown value')}"
        examples.append(Example((mapped.names[i],), note, (mapped.draw(i, mask),)))
    message = (
        f"{many(where, 'mask')} of {len(readable):,} with values that are no class: {told}; list the classes in "
        "classes.txt, ignore a value with --ignore-index, or mend the masks"
    )
    yield Finding("error", "unknown-values", message, len(where), tuple(examples))


def _check_blur(mapped: Mapped, readable: Sequence[int]) -> Iterator[Finding]:
    blurred = [i for i in readable if mapped.facts[i].blur >= BLURRED]
    if blurred:
        message = (
            f"{many(blurred, 'mask')} of {len(readable):,} whose borders pass through values between two others: they "
            "were drawn smooth, or scaled with interpolation, which makes classes that are not there; save them with "
            "hard borders, scale with nearest neighbours"
        )
        examples = [Example((mapped.names[i],), f"{mapped.facts[i].blur:.0%} of the borders") for i in blurred]
        yield finding("error", "smooth-borders", message, examples)


def _check_copies(mapped: Mapped) -> Iterator[Finding]:
    """Copies of images."""
    splits = list(mapped.splits)

    def alike(one: int, other: int) -> bool:
        first, second = mapped.facts[one].classes, mapped.facts[other].classes
        apart = sum(abs(first.get(label, 0) - second.get(label, 0)) for label in {*first, *second})
        return apart <= 2 * ALIKE * sum(first.values())

    differing, leaks, spare = sort_copies(mapped.looks, range(len(splits)), splits, alike)
    if differing:
        message = (
            f"{many(differing, 'image')} with a copy on which other classes are marked; keep the right one, or, if "
            "they are frames of one scene, keep those in one split"
        )
        examples = [Example((mapped.names[one], mapped.names[i])) for one, i in differing]
        yield finding("warning", "copies-mapped-differently", message, examples)
    yield from check_leaks(mapped.names, splits, leaks, spare, "split")
