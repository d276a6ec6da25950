"""The files of `predict`: annotated pictures, maps, `predictions.json` and `panoptic.json`."""

import os
import unicodedata
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from featherbone.data.bands import AnyImage
from featherbone.data.map_files import panoptic_annotation, panoptic_categories, panoptic_image, write_map
from featherbone.draw import draw_record, save_picture
from featherbone.errors import BadImage, BadOption
from featherbone.files import atomic, to_json, write_json
from featherbone.outcomes import Prediction
from featherbone.progress import notify
from featherbone.results import PanopticMap, Record
from featherbone.tasks.card import Card
from featherbone.tasks.task import kind_of

ROWS, PANOPTIC, MAPS = "predictions.json", "panoptic.json", "maps"
LONGEST = 200
"""Bytes of a file name; systems allow 255, with the ending and the mark of an unfinished file."""


class PredictionFiles:
    """A folder that results are written to one by one; `predictions.json` appears when all are.

    Memory does not grow with the maps: `done` keeps of a map its file. Raises `BadOption` where a file would take the
    place of one of the `images`.
    """

    def __init__(self, folder: Path, card: Card, images: Sequence[Path], pictures: bool) -> None:
        self.folder, self.card, self.pictures = folder, card, pictures
        self.names = unique_names(images)
        self.done: list[Prediction] = []
        self.skipped: dict[str, str] = {}
        self._stack = ExitStack()
        self._rows: TextIO | None = None
        self._images: list[Any] = []  # of panoptic.json
        self._annotations: list[Any] = []
        given = {identity: path for path in images if (identity := _identity(path))}
        for name in self.names.values():
            maps = [folder / MAPS / f"{name}.png"] if kind_of(card).is_map else []
            for path in [folder / f"{name}.jpg", *maps] if pictures else maps:
                if (identity := _identity(path)) and (picture := given.get(identity)):
                    raise BadOption(
                        f"{path} would take the place of the picture {picture}; choose another folder with --out"
                    )

    def __enter__(self) -> "PredictionFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None and self._rows is not None:
            self._rows.write(f'\n], "skipped": {to_json(self.skipped, 2)}}}\n')
            if self._images:
                categories = panoptic_categories(self.card.classes, self.card.things, self.card.category_ids)
                content = {"images": self._images, "annotations": self._annotations, "categories": categories}
                write_json(self.folder / PANOPTIC, content)
        self._stack.__exit__(kind, error, traceback)

    def add(self, path: Path, image: AnyImage | None, record: Record | BadImage) -> None:
        """Write the result of an image of the list, or why it cannot be read; `image` is needed for pictures only."""
        if isinstance(record, BadImage):
            self.skipped[str(path)] = str(record)
            notify(str(record), "skipped")
            return
        name = self.names[path]
        picture = self.folder / f"{name}.jpg" if self.pictures else None
        if picture is not None and image is not None:
            save_picture(draw_record(image, record), picture)
        kept = write_map(self.folder / MAPS, name, record)
        if isinstance(record, PanopticMap):
            number = len(self._images) + 1
            self._images.append(panoptic_image(record, number, str(path)))
            self._annotations.append(panoptic_annotation(record, number, f"{name}.png", self.card.category_ids))
        if self._rows is None:
            partial = self._stack.enter_context(atomic(self.folder / ROWS))
            # a name that is not UTF-8 becomes an escape, which JSON reads as that name
            file = open(partial, "w", encoding="utf-8", errors="backslashreplace")
            self._rows = self._stack.enter_context(file)
            self._rows.write('{"predictions": [')
        done = Prediction(path, kept, picture)
        self._rows.write(("," if self.done else "") + "\n" + to_json(done.to_json()))
        self.done.append(done)


def unique_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A file name without extension for each path; no two are equal, also on file systems that ignore case.

    It is the path's stem. Where several paths share it, it is preceded by as many parent folders as distinguish them,
    or, if none do, followed by the extension: `a-x` and `b-x`, or `x-jpg` and `x-png`.
    """
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(_alike(path.stem), []).append(path)
    wanted = {path: name for group in groups.values() for path, name in zip(group, _tell_apart(group), strict=True)}
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in sorted(wanted, key=lambda path: wanted[path] != path.stem):  # a stem that is unique stays as it is
        name, number = wanted[path], 1
        while _alike(name) in taken:
            number += 1
            name = f"{wanted[path]}-{number}"
        taken.add(_alike(name))
        names[path] = name
    return names


def _tell_apart(paths: Sequence[Path]) -> list[str]:
    folders = [path.absolute().parent.parts[1:] for path in paths]
    names: list[str] = []
    for ending in (False, True):
        for depth in range(max(map(len, folders)) + 1):
            names = [
                _short("-".join((*above[len(above) - depth :][:depth], path.stem, *[path.suffix[1:]] * ending)))
                for above, path in zip(folders, paths, strict=True)
            ]
            if len(set(map(_alike, names))) == len(names):
                return names
    return names


def _short(name: str) -> str:
    """The end of a name that is too long for a file."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= LONGEST else encoded[-LONGEST:].decode(errors="ignore")


def _alike(name: str) -> str:
    """Equal for names that some file system takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and number of a file; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
