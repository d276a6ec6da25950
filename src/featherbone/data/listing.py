"""Files below a folder, without those that operating systems put there; none where there is no folder.

A folder whose name ends in `.stack` is an image: a file, not a folder, in all that is listed here.
"""

import os
from collections.abc import Collection, Iterator
from operator import attrgetter
from pathlib import Path

from featherbone.errors import BadData

JUNK = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin", "lost+found")
)
"""Names, in lower case, of files and folders that macOS, Windows and file servers add."""
STACK = ".stack"
"""Suffix, in lower case, of a folder that is one image: the pictures in it are its channels."""
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".npy", STACK),
    )
)
"""Suffixes, in lower case, of images."""


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is hidden (`.git`, `.DS_Store`, `._a.jpg`) or added by a system."""
    return name.startswith(".") or name.lower() in JUNK


def is_image(path: str | Path) -> bool:
    """Whether a file is an image by its name."""
    name = os.fspath(path)
    return name[name.rfind(".") :].lower() in SUFFIXES


def is_stack(path: str | Path) -> bool:
    """Whether an image is a folder of its channels, by its name."""
    return os.fspath(path).lower().endswith(STACK)


def is_file(path: str | Path) -> bool:
    """Whether there is a file, or a stack."""
    return os.path.isfile(path) or (is_stack(path) and os.path.isdir(path))


def list_folder(folder: Path) -> list[Path]:
    """Files and folders in a folder, sorted, without junk. Raises `BadData` where it cannot be read."""
    return sorted(folder / entry.name for entry in _entries(folder))


def list_folders(folder: Path) -> list[Path]:
    """Folders in a folder, sorted, without junk. Raises `BadData` where it cannot be read."""
    return sorted(folder / entry.name for entry in _entries(folder) if _is_folder(entry))


def list_files(folder: Path, suffixes: Collection[str] = ()) -> list[Path]:
    """All files below a folder, or those with one of the `suffixes`, in any case; sorted, without junk.

    Links are followed, and each real folder is read once. Whatever is not a folder counts as a file, also a pipe or a
    broken link, so that reading it reports it. Raises `BadData` where a folder cannot be read.
    """
    return [folder / name for name in list_names(folder, suffixes)]


def list_names(folder: Path, suffixes: Collection[str] = ()) -> list[str]:
    """The same files as paths from `folder` on, with slashes: no object for each, which 100,000 files would show."""
    names = _walk(str(folder), "", set())
    ends = tuple(suffixes)
    return [name for name in names if not ends or name.lower().endswith(ends)]


def list_images(folder: Path) -> list[Path]:
    """Files below a folder that are images by their names, sorted. Raises `BadData` where a folder cannot be read."""
    return list_files(folder, SUFFIXES)


def walk_images(folder: Path) -> Iterator[Path]:
    """As `list_images`, in the order of the file system: a folder of any size is listed while it is read."""
    return (folder / name for name in _walk(str(folder), "", set(), ordered=False) if is_image(name))


def has_images(folder: Path) -> bool:
    """Whether there is an image by its name below a folder; reads no more listings than it needs."""
    return next(walk_images(folder), None) is not None


def below(root: Path, path: Path) -> str:
    """The path of a file from `root` on, as it is written in messages and files."""
    return path.relative_to(root).as_posix()


def lines_of(text: str, comment: str = "\n") -> list[str]:
    """Lines without spaces around them, but for blank ones and those that start with `comment`."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(comment)]


def read_head(path: Path, size: int = 1 << 16) -> bytes:
    """The first bytes of a file; none where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError:
        return b""


def _entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not is_junk(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise BadData(f"{folder}: cannot be listed ({error.strerror}); pass a readable folder") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir() and not is_stack(entry.name)


def _walk(folder: str, start: str, seen: set[tuple[int, int]], ordered: bool = True) -> Iterator[str]:
    """Files below a folder, `ordered` by their parts; `start` is written before their names."""
    if not os.path.isdir(folder):
        return
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    entries = _entries(folder)
    for entry in sorted(entries, key=attrgetter("name")) if ordered else entries:
        if _is_folder(entry):
            yield from _walk(entry.path, f"{start}{entry.name}/", seen, ordered)
        else:
            yield start + entry.name
