"""Files that a data set's lists name, searched below the data folder and nowhere else."""

import os
import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from featherbone.data.findings import many
from featherbone.data.layouts import split_of
from featherbone.data.listing import below, is_file, list_files
from featherbone.errors import BadData

_HASH = re.compile(r"[0-9a-f]{8}-(?=.)")
"""Prefix of uploaded files in Label Studio."""


_MASKS = re.compile(
    r"masks?\b|(mask|panoptic|stuff|ann|gt)_|segmentation|gtFine|labels\b|annotations?\b", re.IGNORECASE
)
"""First letters of the names of folders that hold masks and labels under the names of the images."""


class NamedFiles:
    """Files below `root` by the names that annotation files give them.

    A name is first looked up as it is written, in each of `folders` (below `root`, most likely first). Names that are
    absolute on any system, lead out of the folder, hold backslashes or URL escapes, or name folders that do not exist
    are found by their plain name: the only file of that name, or of several the one whose folders agree with the name,
    or the only one in the most likely folder. Folders of masks and of other splits than `split` are not searched: a
    missing image often has a namesake there.
    """

    def __init__(self, root: Path, folders: Sequence[Path] = (), source: str = "", split: str | None = None) -> None:
        """`source` is the name of the annotation file in messages."""
        self.root, self.source, self.split = root, source, split
        self.folders = tuple(folders) or (root,)
        self.guesses: dict[str, Path] = {}
        """The files that were found by their plain names only."""
        self._listings: dict[str, frozenset[str]] = {}

    def find(self, name: str) -> Path | None:
        """The file of that name; None where there is none. Raises `BadData` where it may be one of several."""
        if not _leads_out(name):
            paths = [os.path.join(folder, name) for folder in self.folders]
            if path := next(filter(self._is_listed, paths), None) or next(filter(is_file, paths), None):
                return Path(path)
        if name not in self.guesses and (found := self._guess(written_parts(name))):
            if len(found) > 1:
                shown = " or ".join(below(self.root, path) for path in found[:2])
                raise BadData(
                    f"{self.source}: file_name {name!r} may be {shown}; write paths below the data folder, as "
                    f"{below(self.root, found[0])!r}"
                )
            self.guesses[name] = found[0]
        return self.guesses.get(name)

    def find_path(self, name: str) -> str | None:
        """As `find`: the path of the file below `root`."""
        if os.path.normpath(name) == name and not _leads_out(name):  # as it is written, without an object for it
            for folder, start in self._starts:
                if self._is_listed(os.path.join(folder, name)):
                    return start + name
        found = self.find(name)
        return None if found is None else below(self.root, found)

    @cached_property
    def _starts(self) -> list[tuple[str, str]]:
        """The folders, and what is written before the names of files in them."""
        starts = [below(self.root, folder) for folder in self.folders]
        return [(str(f), "" if at == "." else f"{at}/") for f, at in zip(self.folders, starts, strict=True)]

    def notes(self) -> list[str]:
        """A note on the files that were found by their plain names only."""
        if not self.guesses:
            return []
        name, path = next(iter(self.guesses.items()))
        where = below(self.root, path)
        return [f"{many(len(self.guesses), 'image')} found by the plain name only, as {where} for {name!r}"]

    def _is_listed(self, path: str) -> bool:
        """Whether there is a file, by the listing of its folder, which is read once."""
        folder, name = os.path.split(path)
        if folder not in self._listings:
            try:
                with os.scandir(folder) as entries:
                    files = (entry.name for entry in entries if entry.is_file() or is_file(entry.path))
                    self._listings[folder] = frozenset(files)
            except (OSError, ValueError):  # a name may hold a NUL
                self._listings[folder] = frozenset()
        return name in self._listings[folder]

    def _guess(self, parts: Sequence[str]) -> list[Path]:
        """The files that match the parts of a name best."""
        if not parts:
            return []
        found = self._by_name.get(_key(parts[-1])) or self._by_name.get(_key(_HASH.sub("", parts[-1], count=1)), [])
        ranks = [(_num_common(path.parts, parts), path.name == parts[-1]) for path in found]
        best = [path for path, rank in zip(found, ranks, strict=True) if rank == max(ranks)]
        for folder in self.folders if len(best) > 1 else ():
            if inside := [path for path in best if path.is_relative_to(folder)]:
                return inside
        return best

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """All files by their plain names, but for masks and those of other splits."""
        found: dict[str, list[Path]] = {}
        for path in list_files(self.root):
            folders = path.parent.relative_to(self.root).parts
            other = self.split is not None and not {split_of(folder) for folder in folders} <= {None, self.split}
            if not other and not any(_MASKS.match(folder) for folder in folders):
                found.setdefault(_key(path.name), []).append(path)
        return found


def find_below(folders: Sequence[Path], name: str, source: str) -> Path | None:
    """The file called `name` below one of `folders`. Raises `BadData`, which names `source`, for one outside."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise BadData(f"{source}: file_name {name!r} leads out of the data folder; write paths below it")
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def written_parts(name: str) -> tuple[str, ...]:
    """Folders and plain name of a path or URL written on any system, without drive, `.` and `..`."""
    name = name.rsplit("?d=", 1)[-1]  # Label Studio's local files
    if re.match(r"[A-Za-z][\w+.-]+://", name):
        name = urlsplit(name).path
    parts = re.split(r"[/\\]+", unquote(name))
    return tuple(part for part in parts if part not in ("", ".", "..") and not re.fullmatch("[A-Za-z]:", part))


def _leads_out(name: str) -> bool:
    """Whether a name, joined to a folder, may be a file outside of it."""
    return os.path.isabs(name) or ".." in name.split("/")


def _num_common(path: Sequence[str], parts: Sequence[str]) -> int:
    """How many of the last folders two paths share."""
    pairs = zip(reversed(path[:-1]), reversed(parts[:-1]), strict=False)
    return next((number for number, (one, other) in enumerate(pairs) if one != other), min(len(path), len(parts)) - 1)


def _key(name: str) -> str:
    """A file name as systems that ignore case and compose letters in another way compare it."""
    return unicodedata.normalize("NFC", name).casefold()
