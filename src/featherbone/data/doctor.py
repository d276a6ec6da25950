"""Every check on the images and labels of a classification data set, before training.

An error would spoil training or its figures; a warning should be looked at; a note says what will be done on its own.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import ExifTags, Image

from featherbone.data.classification import LabelledImages, ParquetImages, open_split
from featherbone.data.duplicates import Print, find_copies, take_print
from featherbone.data.images import SUFFIXES, read_image
from featherbone.data.layouts import LAYOUTS, SPLITS, find_tasks
from featherbone.data.scan import look_at_each
from featherbone.errors import BadData, BadImage

Severity = Literal["error", "warning", "note"]

FEW = 10
"""Fewer training images of a class are a warning."""
IMBALANCE = 10
"""A largest class more than so many times the smallest is a warning."""
ELONGATED = 3
"""A longer side more than so many times the shorter is a warning."""
SPOILS = 0.01
"""From this share of the images on, damaged files, conflicting labels and leaked images are errors, not warnings."""
MAX_EXAMPLES = 20
_THUMBNAIL = 128


@dataclass(frozen=True)
class Example:
    """What a finding points at: images, or classes, files and folders; copies together."""

    names: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Finding:
    """One thing noticed."""

    severity: Severity
    code: str
    """A fixed name in kebab-case."""
    message: str
    """What was found, what is allowed, what to do."""
    count: int
    """Images, classes or files concerned."""
    examples: tuple[Example, ...] = ()
    """The first of them."""


@dataclass(frozen=True)
class Examination:
    """What the doctor says of a data set, worst first."""

    data: str
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    """Of each split, how many images of each class can be read."""
    findings: tuple[Finding, ...]
    thumbnails: dict[str, bytes] = field(repr=False)
    """Small JPEG files of the images among the examples, by name."""

    @property
    def spoiled(self) -> bool:
        """Whether there is an error."""
        return any(finding.severity == "error" for finding in self.findings)

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
        }


def examine(data: Path, input_size: int = 224) -> Examination:
    """Read every image of `data` once and tell all that is wrong; `input_size` is the network's, in pixels.

    A problem never ends the examination; only a path that holds no classification data raises `BadData`.
    """
    _refuse_other_tasks(data)
    splits: dict[str, LabelledImages] = {}
    findings: list[Finding] = []
    for split in SPLITS:
        try:
            opened = open_split(data, split, check=False)
        except BadData as error:
            findings.append(Finding("error", "unreadable-split", str(error), 1))
            continue
        if opened:
            splits[split], skipped = opened
            findings += _check_labels(splits[split])
            findings += _check_skipped(skipped)
    pictures = _look(splits)
    findings += _check_splits(data, splits)
    findings += _check_classes(pictures)
    findings += _check_files(pictures, input_size)
    findings += _check_copies(pictures)
    findings.sort(key=lambda finding: ("error", "warning", "note").index(finding.severity))
    counts = {split: tuple(row) for split, row in zip(SPLITS, pictures.counts().tolist(), strict=True)}
    return Examination(str(data), pictures.classes, counts, tuple(findings), _thumbnails(splits, findings))


@dataclass(frozen=True, slots=True)
class Picture:
    """What is kept of an image that can be read."""

    width: int
    height: int
    kind: str
    rotated: bool
    print: Print


@dataclass(frozen=True)
class _Pictures:
    """All images of both splits, one after another."""

    classes: tuple[str, ...]
    names: list[str]
    splits: list[str]
    labels: list[int]
    looks: list[Picture | str]
    """The picture, or why it cannot be read."""

    def counts(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Readable images by split and class (2, K)."""
        counts = np.zeros((len(SPLITS), len(self.classes)), np.int64)
        for split, label, look in zip(self.splits, self.labels, self.looks, strict=True):
            counts[list(SPLITS).index(split), label] += isinstance(look, Picture)
        return counts

    def readable(self) -> Iterator[tuple[int, Picture]]:
        """Index and picture of each that can be read."""
        yield from ((index, look) for index, look in enumerate(self.looks) if isinstance(look, Picture))


def _refuse_other_tasks(data: Path) -> None:
    try:
        tasks = find_tasks(data)
    except BadData:
        if not data.is_dir():
            raise
        return  # what an unknown folder lacks becomes a finding
    if "classification" not in tasks:
        here = LAYOUTS.splitlines()[0]
        raise BadData(f"{data}: a layout for {', '.join(tasks)}; the doctor examines classification data:\n{here}")


def _look(splits: dict[str, LabelledImages]) -> _Pictures:
    indices: dict[str, int] = {name: i for i, name in enumerate(dict.fromkeys(_class_names(splits.values())))}
    found = _Pictures((), [], [], [], [])
    for split, images in splits.items():
        found.names.extend(images.name(index) for index in range(len(images)))
        found.splits.extend([split] * len(images))
        found.labels.extend(indices[_class_name(images, label)] for label in images.labels.tolist())
        found.looks.extend(look_at_each(images, partial(_look_at, images), f"examining {split}"))
    return _Pictures(tuple(indices), found.names, found.splits, found.labels, found.looks)


def _class_name(images: LabelledImages, label: int) -> str:
    return images.classes[label] if 0 <= label < len(images.classes) else f"label {label}"


def _class_names(splits: Iterable[LabelledImages]) -> Iterator[str]:
    for images in splits:
        yield from images.classes
    for images in splits:
        yield from (_class_name(images, label) for label in np.unique(images.labels).tolist())


def _look_at(images: LabelledImages, index: int) -> Picture | str:
    name = images.name(index)
    try:
        encoded = images.encoded(index)
        image = read_image(encoded, name)
    except (BadImage, OSError) as error:
        return str(error).removeprefix(f"{name}: ")
    with Image.open(io.BytesIO(encoded)) as file:
        rotated = "exif" in file.info and file.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
        return Picture(*image.size, _kind(file), rotated, take_print(image, encoded))


def _kind(file: Image.Image) -> str:
    if file.mode.startswith("I"):
        return "sixteen-bit"
    if file.mode in ("P", "PA"):
        return "palette"
    if file.has_transparency_data:
        return "transparent"
    return {"L": "grey", "1": "grey", "RGB": "colour", "CMYK": "cmyk"}.get(file.mode, "other-colours")


_KINDS = {
    "sixteen-bit": "with 16 bits a channel, scaled to 8",
    "palette": "with a palette, turned into RGB, transparency laid over white",
    "transparent": "with transparency, laid over white",
    "grey": "in grey, repeated in red, green and blue",
    "cmyk": "in CMYK, turned into RGB without its colour profile",
    "other-colours": "in a colour space other than RGB, turned into RGB",
}


def _check_labels(images: LabelledImages) -> Iterator[Finding]:
    """Labels of Parquet rows against the class names."""
    if not isinstance(images, ParquetImages) or not len(images):
        return
    low, high, known = int(images.labels.min()), int(images.labels.max()), len(images.classes)
    if low == 1:
        message = f"{images.stem}: labels run from 1 to {high}; they start at 0, so subtract 1, or name the class 0"
        yield Finding("error", "labels-shifted", message, len(images))
    outside = np.flatnonzero((images.labels < 0) | (images.labels >= known))
    if len(outside):
        message = f"{images.stem}: labels run from {low} to {high}, but {known} class names allow 0 to {known - 1}"
        examples = [Example((images.name(i),), f"label {images.labels[i]}") for i in outside[:MAX_EXAMPLES].tolist()]
        yield Finding("error", "labels-out-of-range", message, len(outside), tuple(examples))


def _check_skipped(skipped: Sequence[str]) -> Iterator[Finding]:
    if skipped:
        message = f"{_many(skipped, 'file')} in class folders not named like pictures, left out; remove or convert"
        yield _finding("warning", "not-pictures", message, [Example((name,)) for name in skipped])


def _check_splits(data: Path, splits: dict[str, LabelledImages]) -> Iterator[Finding]:
    """What lies in the folders beside the classes, and whether there is anything to train and validate on."""
    folders = {split: [data / name for name in names if (data / name).is_dir()] for split, names in SPLITS.items()}
    for split, found in folders.items():
        for folder in found[1:]:
            message = f"{folder.name} is not used, for {found[0].name} is the {split} split; join the two or remove one"
            yield Finding("warning", "unused-folder", message, 1, (Example((folder.name,)),))
    tops = [folder for found in folders.values() for folder in found[:1]] or [data]
    loose = [file for top in tops for file in sorted(top.iterdir()) if file.suffix.lower() in SUFFIXES]
    if loose:
        message = f"{_many(loose, 'picture')} outside the class folders, left out; move each into that of its class"
        yield _finding("warning", "no-class", message, [Example((str(file.relative_to(data)),)) for file in loose])
    if not splits.get("train"):
        message = f"no training images; the layout is\n{LAYOUTS.splitlines()[0]}"
        yield Finding("error", "no-images", message, 0)
    if not splits.get("val"):
        message = "no validation images: a share of the training images will be held out, copies of them included"
        yield Finding("note", "no-validation", message, 0)


def _check_classes(pictures: _Pictures) -> Iterator[Finding]:
    """Names and numbers of the classes."""
    classes, (train, val) = pictures.classes, pictures.counts()
    if train.any() and np.count_nonzero(train) < 2:
        message = f"training images of one class only, {classes[int(train.argmax())]}; two or more are needed"
        yield Finding("error", "one-class", message, 1)

    def of(which: np.ndarray[Any, Any], counts: np.ndarray[Any, Any]) -> list[Example]:
        return [Example((classes[i],), _many(int(counts[i]), "image")) for i in np.flatnonzero(which).tolist()]

    if empty := of((train == 0) & (val == 0), train):
        message = f"{_many(empty, 'class', 'classes')} without a readable image; add some or remove the class"
        yield _finding("error", "empty-class", message, empty)
    if train.any() and (unknown := of((train == 0) & (val > 0), val)):
        message = f"{_many(unknown, 'class', 'classes')} in validation only; add training images or remove it"
        yield _finding("error", "class-only-in-val", message, unknown)
    if val.any() and (missing := of((train > 0) & (val == 0), train)):
        message = f"{_many(missing, 'class', 'classes')} without a validation image: nothing is known of them; add some"
        yield _finding("warning", "class-missing-in-val", message, missing)
    if few := of((train > 0) & (train < FEW), train):
        message = f"{_many(few, 'class', 'classes')} with fewer than {FEW} training images; add more or join classes"
        yield _finding("warning", "few-images", message, few)
    present = train[train > 0]
    if len(present) and present.max() > IMBALANCE * present.min():
        message = (
            f"the largest class has {present.max()} training images and the smallest {present.min()}: over {IMBALANCE} "
            "to 1, rare classes will hardly be learned; add images of the rare ones"
        )
        yield _finding(
            "warning", "class-imbalance", message, of((train == present.max()) | (train == present.min()), train)
        )
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault("".join(name.split()).casefold(), []).append(name)
    if pairs := [Example(tuple(names)) for names in alike.values() if len(names) > 1]:
        message = "class names that differ only by case or spaces; join their folders if they mean the same"
        yield _finding("warning", "alike-class-names", message, pairs)


def _check_files(pictures: _Pictures, input_size: int) -> Iterator[Finding]:
    """Each file for itself."""
    names, total = pictures.names, len(pictures.names)
    if broken := [Example((names[i],), look) for i, look in enumerate(pictures.looks) if isinstance(look, str)]:
        message = f"{_many(broken, 'file')} of {total:,} cannot be read and will be left out; replace or remove"
        yield _finding(_grade(len(broken), total), "unreadable", message, broken)

    def where(test: Callable[[Picture], bool]) -> list[Example]:
        return [Example((names[i],), f"{look.width} x {look.height}") for i, look in pictures.readable() if test(look)]

    if small := where(lambda picture: min(picture.width, picture.height) < input_size / 2):
        message = (
            f"{_many(small, 'image')} of {total:,} with a side under half of the input's {input_size} pixels, so "
            "enlarged more than twice; use larger originals or a smaller input"
        )
        yield _finding("warning", "small-images", message, small)

    def is_elongated(picture: Picture) -> bool:
        return max(picture.width, picture.height) > ELONGATED * min(picture.width, picture.height)

    if elongated := where(is_elongated):
        message = (
            f"{_many(elongated, 'image')} more than {ELONGATED} times as long as wide, of which the centre crop keeps "
            "less than a third; cut out what matters"
        )
        yield _finding("warning", "extreme-aspect", message, elongated)
    if rotated := where(lambda picture: picture.rotated):
        message = f"{_many(rotated, 'image')} stored sideways or mirrored, turned upright by the EXIF orientation"
        yield _finding("note", "exif-rotated", message, rotated)
    kinds: dict[str, list[Example]] = {}
    for i, look in pictures.readable():
        kinds.setdefault(look.kind, []).append(Example((names[i],)))
    for kind, text in _KINDS.items():
        if found := kinds.get(kind):
            yield _finding("note", kind, f"{_many(found, 'image')} {text}", found)


def _check_copies(pictures: _Pictures) -> Iterator[Finding]:
    """Copies under two classes, in both splits, and the rest."""
    readable = list(pictures.readable())
    names, splits, labels = pictures.names, pictures.splits, pictures.labels
    conflicts: list[Example] = []
    leaks: list[Example] = []
    spare: list[Example] = []
    for group in find_copies([picture.print for _, picture in readable]):
        members = [readable[at][0] for at in group]
        one = members[0]
        train = next((i for i in members if splits[i] == "train"), None)
        for i in members[1:]:
            if labels[i] != labels[one]:
                note = f"{pictures.classes[labels[one]]} or {pictures.classes[labels[i]]}?"
                conflicts.append(Example((names[one], names[i]), note))
            elif splits[i] == splits[one]:
                spare.append(Example((names[one], names[i])))
        if train is not None:
            leaks += [Example((names[train], names[i])) for i in members if splits[i] == "val"]
    if conflicts:
        message = f"{_many(conflicts, 'image')} also found under another class; keep the right one"
        yield _finding(_grade(len(conflicts), len(readable)), "label-conflict", message, conflicts)
    if leaks:
        count = splits.count("val")
        message = (
            f"{_many(leaks, 'validation image')} of {count:,} with a copy among the training images, so accuracy "
            "will look better than it is; remove one of each pair"
        )
        yield _finding(_grade(len(leaks), count), "leakage", message, leaks)
    if spare:
        message = f"{_many(spare, 'copy', 'copies')} of another image of the same class and split; remove them"
        yield _finding("note", "duplicates", message, spare)


def _grade(count: int, total: int) -> Severity:
    return "error" if count >= SPOILS * total else "warning"


def _finding(severity: Severity, code: str, message: str, examples: Sequence[Example]) -> Finding:
    return Finding(severity, code, message, len(examples), tuple(examples[:MAX_EXAMPLES]))


def _many(things: int | Sequence[Any], one: str, several: str = "") -> str:
    count = things if isinstance(things, int) else len(things)
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _thumbnails(splits: dict[str, LabelledImages], findings: Sequence[Finding]) -> dict[str, bytes]:
    """The examples among the images, read once more."""
    wanted = {name for finding in findings for example in finding.examples for name in example.names}
    thumbnails: dict[str, bytes] = {}
    for images in splits.values():
        for index in range(len(images)):
            if (name := images.name(index)) in wanted:
                try:
                    image = images.read(index)
                except BadImage:
                    continue
                image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
                buffer = io.BytesIO()
                image.save(buffer, "JPEG", quality=80)
                thumbnails[name] = buffer.getvalue()
    return thumbnails
