"""Findings about a data set, and the examination that holds them.

An error would spoil training or its metrics, a warning should be looked at, a note states what training will do.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from featherbone.errors import BadData

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

SPOILS = 0.01
"""Damaged files, wrong labels and leaked images are errors from this share on, and warnings below it."""
MOST = 0.5
"""Missing files, images without labels and objects annotated twice are errors from this share on."""
MAX_EXAMPLES = 12


@dataclass(frozen=True)
class Example:
    """What a finding points to: an image, class, file or folder; two of them for copies."""

    names: tuple[str, ...]
    note: str = ""
    pictures: tuple[bytes, ...] = field(default=(), repr=False)
    """A small JPEG file of each name, empty where it is not an image or cannot be read."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The note as plain values, where another program may need them."""


@dataclass(frozen=True)
class Finding:
    """One problem or property of a data set."""

    severity: Severity
    code: str  # a fixed name in kebab-case
    message: str  # what was found, with numbers, and what to do
    count: int  # number of images, objects, classes or files concerned
    examples: tuple[Example, ...] = ()  # the first of them; one for all objects of an image


@dataclass(frozen=True)
class ObjectFacts:
    """Numbers and sizes of the objects of a data set, crowds not counted."""

    input_size: int  # height and width of the network's input in pixels
    images: dict[str, int]  # readable images by split
    negatives: dict[str, int]  # images without objects by split
    median: float  # number of objects per image
    most: int  # maximum number of objects per image
    sides: dict[str, tuple[int, ...]]
    """By split, the number of objects whose smaller side is from 2^(i/2) to 2^((i+1)/2) pixels at the input, i from 0;
    the first includes all smaller ones."""

    def to_json(self) -> dict[str, Any]:
        values = {key: getattr(self, key) for key in ("input_size", "images", "negatives")}
        sides = {split: list(counts) for split, counts in self.sides.items()}
        return {**values, "median_per_image": self.median, "most_per_image": self.most, "sides": sides}


@dataclass(frozen=True)
class Examination:
    """The findings about a data set, errors first."""

    data: str
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    """By split, the number of readable images, or of objects, of each class."""
    findings: tuple[Finding, ...]
    objects: ObjectFacts | None = None
    """Only where objects were examined."""

    @property
    def spoiled(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)

    @property
    def verdict(self) -> str:
        """The result in a few words."""
        return "Fix the errors before training" if self.spoiled else "Ready for training"

    def to_json(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "spoiled": self.spoiled,
            "classes": list(self.classes),
            "counts": {split: list(counts) for split, counts in self.counts.items()},
            "findings": [
                {**vars(one), "examples": [{"names": list(x.names), "note": x.note, **x.facts} for x in one.examples]}
                for one in self.findings
            ],
            "objects": self.objects and self.objects.to_json(),
        }

    def __str__(self) -> str:
        lines = [self.verdict]
        for finding in self.findings:
            lines.append(f"{finding.severity:8}{finding.code}: {finding.message}")
            for example in finding.examples[:3]:
                lines.append(f"{'':8}{'; '.join(example.names)}" + f" ({example.note})" * bool(example.note))
            if finding.examples and finding.count > 3:
                lines.append(f"{'':8}and {finding.count - 3:,} more")
        return "\n".join(lines)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, warnings, notes; the order within each is kept."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def finding(severity: Severity, code: str, message: str, examples: Sequence[Example]) -> Finding:
    """A finding that counts `examples` and keeps the first."""
    return Finding(severity, code, message, len(examples), tuple(examples[:MAX_EXAMPLES]))


def report(
    severity: Severity | float,
    code: str,
    examples: Sequence[Example],
    thing: str,
    text: str,
    total: int = 0,
    count: int | None = None,
) -> Iterator[Finding]:
    """A finding about `count` things, by default as many as `examples`, if there are any.

    The message is "3 images of 40" for the `thing` and the `total`, and the `text`; only the `text` without a `thing`.
    Where `severity` is a number, it is an error from that share of `total` on, else a warning.
    """
    count = len(examples) if count is None else count
    if count:
        severity = severity if isinstance(severity, str) else grade(count, total, severity)
        message = f"{many(count, thing, total)} {text}" if thing else text
        yield Finding(severity, code, message, count, tuple(examples[:MAX_EXAMPLES]))


def grade(count: int, total: int, spoils: float = SPOILS) -> Severity:
    """An error where `count` is at least the share `spoils` of `total`, else a warning."""
    return "error" if count >= spoils * total else "warning"


def many(things: int | Sequence[Any], thing: str, total: int = 0) -> str:
    """`"1 class"`, `"2 classes"`, `"2 boxes of 20"`."""
    count = things if isinstance(things, int) else len(things)
    plural = thing[:-1] + "ies" if thing.endswith("y") else thing + ("es" if thing.endswith(("s", "x")) else "s")
    return f"{count:,} {thing if count == 1 else plural}" + (f" of {total:,}" if total else "")


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first `most` names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def notice(finding: Finding) -> str:
    """A finding in one line, with the first names."""
    names = [example.names[0] + f" ({example.note})" * bool(example.note) for example in finding.examples[:3]]
    more = finding.count - len(names)
    return finding.message + (f": {', '.join(names)}" + f" and {more:,} more" * (more > 0) if names else "")


def notices(findings: Iterable[Finding]) -> tuple[str, ...]:
    """One line for each finding that is not an error, warnings first."""
    return tuple(notice(one) for one in worst_first(findings) if one.severity != "error")


def refuse(findings: Iterable[Finding], data: Path) -> None:
    """Raise `BadData` with the first error, if there is one."""
    errors = [one for one in findings if one.severity == "error"]
    if errors:
        more = f"\n{many(len(errors) - 1, 'more error')}" if len(errors) > 1 else ""
        raise BadData(f"{data}: {notice(errors[0])}{more}\nall with pictures: featherbone doctor {data}")
