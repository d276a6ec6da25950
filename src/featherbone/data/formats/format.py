"""What every format of marked images provides."""

from pathlib import Path
from typing import Protocol

from featherbone.data.objects import Opened


class Format(Protocol):
    """One way in which tools store images and the objects marked on them; a file in this folder."""

    name: str
    """What messages call it."""

    def matches(self, folder: Path) -> bool:
        """Whether `folder` is in this format, from its listing and the first bytes of a file or two."""
        ...

    def tasks(self, folder: Path) -> frozenset[str]:
        """Tasks that a matching folder serves: detection, and instance where objects have masks."""
        ...

    def open(self, folder: Path, split: str, unlabelled: str, check: bool) -> Opened | None:
        """Images of a split with their objects; None where the folder has no such split.

        By `unlabelled` an image without labels is left out ("leave-out") or shows no object ("negative"). With
        `check`, `BadData` is raised for labels that cannot be trained on; without it, the annotation has the same
        text under `error`.
        """
        ...
