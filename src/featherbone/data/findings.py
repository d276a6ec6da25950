"""What an examination of a data set says, and the checks on its pictures that every task shares.

An error would spoil training or its figures; a warning should be looked at; a note says what will be done on its own.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from featherbone.data.duplicates import Print, find_copies, take_print
from featherbone.data.images import WHITES, is_deep, open_image, orientation_of, read_image, white_of
from featherbone.errors import BadData, BadImage

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

FEW = 10
"""Fewer training images, or objects, of a class are a warning."""
SPOILS = 0.01
"""From this share on, damaged files, wrong labels and leaked images are errors, not warnings."""
MOST = 0.5
"""From this share on, missing files, images without labels and objects marked twice are errors: a whole is wrong."""
MAX_EXAMPLES = 12


@dataclass(frozen=True)
class Example:
    """What a finding points at: images, or classes, files and folders; copies together."""

    names: tuple[str, ...]
    note: str = ""
    pictures: tuple[bytes, ...] = field(default=(), repr=False)
    """A small JPEG file of each name, empty where it is no image that can be read."""


@dataclass(frozen=True)
class Finding:
    """One thing noticed."""

    severity: Severity
    code: str
    """A fixed name in kebab-case."""
    message: str
    """What was found, what is allowed, what to do."""
    count: int
    """Images, objects, classes or files concerned."""
    examples: tuple[Example, ...] = ()
    """The first of them; of the objects in one image, the first stands for all."""


@dataclass(frozen=True)
class ObjectFacts:
    """What a data set of objects amounts to, crowds left aside."""

    input_size: int
    """Height and width of the network's input in pixels."""
    images: dict[str, int]
    """Of each split, how many images can be read."""
    negatives: dict[str, int]
    """And how many of all show no object."""
    median: float
    """Objects in an image."""
    most: int
    """Objects in the image that has most."""
    sides: dict[str, tuple[int, ...]]
    """Of each split, how many objects have a smaller side from 2^(i/2) to 2^((i+1)/2) pixels on the input, i from 0;
    the first holds all that are smaller."""


@dataclass(frozen=True)
class Examination:
    """What the doctor says of a data set, worst first."""

    data: str
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    """Of each split, how many images that can be read, or objects, there are of each class."""
    findings: tuple[Finding, ...]
    objects: ObjectFacts | None = None
    """Only where objects were examined."""

    @property
    def spoiled(self) -> bool:
        """Whether there is an error."""
        return any(finding.severity == "error" for finding in self.findings)

    @property
    def verdict(self) -> str:
        """The whole in a few words."""
        return "Mend the errors before training" if self.spoiled else "Fit for training"

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the command line prints them."""
        return {
            "data": self.data,
            "spoiled": self.spoiled,
            "classes": list(self.classes),
            "counts": {split: list(counts) for split, counts in self.counts.items()},
            "findings": [
                {
                    "severity": finding.severity,
                    "code": finding.code,
                    "message": finding.message,
                    "count": finding.count,
                    "examples": [{"names": list(example.names), "note": example.note} for example in finding.examples],
                }
                for finding in self.findings
            ],
            "objects": self.objects
            and {
                "input_size": self.objects.input_size,
                "images": self.objects.images,
                "negatives": self.objects.negatives,
                "median_per_image": self.objects.median,
                "most_per_image": self.objects.most,
                "sides": {split: list(counts) for split, counts in self.objects.sides.items()},
            },
        }

    def __str__(self) -> str:
        lines = [self.verdict]
        for finding in self.findings:
            lines.append(f"{finding.severity:8}{finding.code}: {finding.message}")
            shown = [
                "; ".join(example.names) + f" ({example.note})" * bool(example.note) for example in finding.examples
            ]
            lines += [f"{'':8}{text}" for text in shown[:3]]
            if finding.count > 3 and shown:
                lines.append(f"{'':8}and {finding.count - 3:,} more")
        return "\n".join(lines)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, warnings, notes; each kind in the order given."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def finding(severity: Severity, code: str, message: str, examples: Sequence[Example]) -> Finding:
    """A finding that counts its examples and keeps the first."""
    return Finding(severity, code, message, len(examples), tuple(examples[:MAX_EXAMPLES]))


def grade(count: int, total: int, spoils: float = SPOILS) -> Severity:
    """An error where `count` is a share of `spoils` or more of `total`, else a warning."""
    return "error" if count >= spoils * total else "warning"


def many(things: int | Sequence[Any], one: str, several: str = "") -> str:
    """`"1 class"`, `"2 classes"`."""
    count = things if isinstance(things, int) else len(things)
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def notice(finding: Finding) -> str:
    """A finding in one line, with the first names."""
    names = [example.names[0] + f" ({example.note})" * bool(example.note) for example in finding.examples[:3]]
    more = finding.count - len(names)
    return finding.message + (f": {', '.join(names)}" + f" and {more:,} more" * (more > 0) if names else "")


def notices(findings: Iterable[Finding]) -> tuple[str, ...]:
    """What is not an error, a line each, warnings first."""
    return tuple(notice(one) for one in worst_first(findings) if one.severity != "error")


def refuse(findings: Iterable[Finding], data: Path) -> None:
    """Raise `BadData` with the first error, if there is one."""
    errors = [one for one in findings if one.severity == "error"]
    if errors:
        more = f"\n{many(len(errors) - 1, 'more error')}" if len(errors) > 1 else ""
        raise BadData(f"{data}: {notice(errors[0])}{more}\nall with pictures: featherbone doctor {data}")


def check_left(splits: Sequence[str], usable: Iterable[int]) -> Iterator[Finding]:
    """Splits, of each image its own, of which no image can be used; `usable` are indices of those that can."""
    left = {splits[index] for index in usable}
    for split in dict.fromkeys(splits):
        if split not in left:
            message = f"none of {many(list(splits).count(split), 'image')} of {split} can be used; replace them"
            yield Finding("error", f"no-readable-image-in-{split}", message, list(splits).count(split))


def illustrate(findings: Iterable[Finding], draw: Callable[[str], bytes]) -> tuple[Finding, ...]:
    """The findings, their examples with pictures by `draw(name)` where they have none yet."""
    draw = cache(draw)

    def shown(example: Example) -> Example:
        return example if example.pictures else replace(example, pictures=tuple(map(draw, example.names)))

    return tuple(replace(one, examples=tuple(map(shown, one.examples))) for one in findings)


def to_jpeg(image: Image.Image) -> bytes:
    """A small file of a small picture."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Picture:
    """What is kept of an image that can be read; its size is that of the upright image."""

    width: int
    height: int
    kind: str
    orientation: int
    """By EXIF, 1 to 8: 1 is upright, from 5 on width and height change places."""
    print: Print


class Images(Protocol):
    """What `look_at` needs of a data set."""

    def name(self, index: int) -> str: ...

    def encoded(self, index: int) -> bytes: ...


def look_at(images: Images, index: int) -> Picture | str:
    """The picture of an image, or why it cannot be read."""
    name = images.name(index)
    try:
        encoded = images.encoded(index)
        image = read_image(encoded, name)
    except (BadImage, OSError) as error:
        return str(error).removeprefix(f"{name}: ")
    with open_image(encoded, name) as file:
        orientation = orientation_of(file)  # before `_kind`, which may decode the file
        return Picture(*image.size, _kind(file), orientation, take_print(image, encoded))


def _kind(file: ImageFile.ImageFile) -> str:
    if is_deep(file):
        file.load()
        return "sixteen-bit" if white_of(file) == WHITES[-1] else "low-range"
    if file.mode in ("P", "PA"):
        return "palette"
    if file.has_transparency_data:
        return "transparent"
    return {"L": "grey", "1": "grey", "RGB": "colour", "CMYK": "cmyk"}.get(file.mode, "other-colours")


_KINDS = {
    "sixteen-bit": "with 16 bits a channel, scaled to 8",
    "low-range": "with 16 bits a channel of which only the lower 10 or 12 are used, scaled by that range; of colours "
    "only the upper 8 bits are read, so save those with 8 bits, or scaled to 16",
    "palette": "with a palette, turned into RGB, transparency laid over white",
    "transparent": "with transparency, laid over white",
    "grey": "in grey, repeated in red, green and blue",
    "cmyk": "in CMYK, turned into RGB without its colour profile",
    "other-colours": "in a colour space other than RGB, turned into RGB",
}


def check_readable(names: Sequence[str], looks: Sequence[Picture | str]) -> Iterator[Finding]:
    """Files that are no pictures."""
    if broken := [Example((name,), look) for name, look in zip(names, looks, strict=True) if isinstance(look, str)]:
        message = f"{many(broken, 'file')} of {len(names):,} cannot be read and will be left out; replace or remove"
        yield finding(grade(len(broken), len(names)), "unreadable", message, broken)


def check_kinds(names: Sequence[str], looks: Sequence[Picture | str]) -> Iterator[Finding]:
    """Pictures that are turned into 8-bit RGB."""
    kinds: dict[str, list[Example]] = {}
    for name, look in zip(names, looks, strict=True):
        if isinstance(look, Picture):
            kinds.setdefault(look.kind, []).append(Example((name,)))
    for kind, text in _KINDS.items():
        if found := kinds.get(kind):
            yield finding("note", kind, f"{many(found, 'image')} {text}", found)


def check_balance(
    classes: Sequence[str],
    train: NDArray[np.int64],
    val: NDArray[np.int64],
    thing: str,
    imbalance: int,
    only_in_val: Severity = "warning",
) -> Iterator[Finding]:
    """Classes by the number (K,) of images or objects, as `thing` says, in both splits, and by their names."""

    def of(which: NDArray[np.bool_], counts: NDArray[np.int64]) -> list[Example]:
        return [Example((classes[i],), many(int(counts[i]), thing)) for i in np.flatnonzero(which).tolist()]

    if train.any() and (unknown := of((train == 0) & (val > 0), val)):
        message = f"{many(unknown, 'class', 'classes')} in validation only; add training images or remove them"
        yield finding(only_in_val, "class-only-in-val", message, unknown)
    if val.any() and (missing := of((train > 0) & (val == 0), train)):
        message = (
            f"{many(missing, 'class', 'classes')} without a validation {thing}: nothing will be known of them; add some"
        )
        yield finding("warning", "class-missing-in-val", message, missing)
    if few := of((train > 0) & (train < FEW), train):
        message = f"{many(few, 'class', 'classes')} with fewer than {FEW} training {thing}s; add more or join classes"
        yield finding("warning", f"few-{thing}s", message, few)
    present = train[train > 0]
    if len(present) and present.max() > imbalance * present.min():
        message = (
            f"the largest class has {present.max():,} training {thing}s and the smallest {present.min():,}: over "
            f"{imbalance} to 1, rare classes will hardly be learned; add images of the rare ones"
        )
        ends = of((train == present.max()) | (train == present.min()), train)
        yield finding("warning", "class-imbalance", message, ends)
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault("".join(name.split()).casefold(), []).append(name)
    if pairs := [Example(tuple(names)) for names in alike.values() if len(names) > 1]:
        message = "class names that differ only by case or spaces; join them if they mean the same"
        yield finding("warning", "alike-class-names", message, pairs)


Pairs = list[tuple[int, int]]


def sort_copies(
    looks: Sequence[Picture | str], indices: Iterable[int], splits: Sequence[str], alike: Callable[[int, int], bool]
) -> tuple[Pairs, Pairs, Pairs]:
    """Images of `indices` and their copies: labelled otherwise by `alike`, in training and validation, and spare."""
    readable = [(i, look) for i in indices if isinstance(look := looks[i], Picture)]
    differing: Pairs = []
    leaks: Pairs = []
    spare: Pairs = []
    for group in find_copies([picture.print for _, picture in readable]):
        one, *others = members = [readable[at][0] for at in group]
        for i in others:
            if not alike(one, i):
                differing.append((one, i))
            elif splits[i] == splits[one]:
                spare.append((one, i))
        train = next((i for i in members if splits[i] == "train"), None)
        if train is not None:
            leaks += [(train, i) for i in members if splits[i] == "val"]
    return differing, leaks, spare


def check_leaks(
    names: Sequence[str], splits: Sequence[str], leaks: Pairs, spare: Pairs, same: str
) -> Iterator[Finding]:
    """Copies in both splits, and those without harm, which have the `same`."""
    if leaks:
        count = splits.count("val")
        message = (
            f"{many(leaks, 'validation image')} of {count:,} with a copy among the training images, so the metrics "
            "will look better than they are; remove one of each pair"
        )
        examples = [Example((names[one], names[i])) for one, i in leaks]
        yield finding(grade(len(leaks), count), "leakage", message, examples)
    if spare:
        message = f"{many(spare, 'copy', 'copies')} of another image of the same {same}; remove them"
        yield finding("note", "duplicates", message, [Example((names[one], names[i])) for one, i in spare])
