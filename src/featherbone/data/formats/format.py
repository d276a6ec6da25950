"""What every data format provides: a class in a file of this folder, registered with `register_format`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from featherbone.data.findings import MOST, Example, Finding, finding, grade
from featherbone.data.split import Split


@dataclass(frozen=True)
class Reading:
    """How annotations are read, by the settings of the same names; a format ignores what does not apply to it."""

    unlabelled: str = "leave-out"
    """Images without annotations are skipped ("leave-out") or have no object ("negative")."""
    crowds: str = "ignore"
    """Annotations with iscrowd 1 are groups ("ignore") or single objects ("objects")."""
    ignore_index: int | None = None
    """A mask value without a class."""
    zero_ignored: bool = False
    """Whether mask value 0 has no class, and the class list no line for it."""

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """The settings of the same names, defaults for those that are absent."""
        return cls(**{field.name: settings[field.name] for field in fields(cls) if field.name in settings})


@dataclass(frozen=True)
class Opened:
    """One split as its files give it."""

    images: Split[Any]
    missing: tuple[str, ...] = ()
    """Images that are listed, but do not exist."""
    unlisted: tuple[str, ...] = ()
    """Images that exist, but are not listed and were skipped."""
    orphans: int = 0
    """Annotations of images that are not listed."""
    notes: tuple[str, ...] = ()
    """Which part of the files is not read, or is read in an unexpected way."""
    findings: tuple[Finding, ...] = ()
    """Other problems that were noticed."""


class Format(ABC):
    """One way in which tools store images and their annotations."""

    name: ClassVar[str]
    """Name in messages."""
    fallback: ClassVar[bool] = False
    """Whether it is tried only for folders that no other format recognises."""
    is_streamed: ClassVar[bool] = False
    """Whether it also reads a `Url`."""

    @abstractmethod
    def tasks(self, folder: Path) -> frozenset[str]:
        """Tasks that `folder` serves in this format, empty where it is in another format.

        Cheap: it reads directory listings and the first bytes of a few files.
        """

    @abstractmethod
    def open(self, folder: Path, task: str, split: str, reading: Reading) -> Opened | None:
        """The images of a split for one of the `tasks`; None where the folder has no such split.

        Annotations that cannot be read are kept in the split, to be reported together. Raises `BadData` for files that
        cannot be opened at all.
        """


def skipped_files(code: str, names: Sequence[str], num_used: int, message: str) -> list[Finding]:
    """A finding about the files of a split that cannot be used, an error where they are the most; none without any."""
    total, examples = num_used + len(names), [Example((name,)) for name in names]
    severity = grade(len(names), total, MOST)
    return [finding(severity, code, f"{len(names):,} of {total:,} {message}", examples)] if names else []
