"""COCO's annotation files, as COCO itself and the tools that write its form name them."""

import codecs
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from featherbone.data.formats.coco_json import (
    CocoAnnotation,
    CocoCategory,
    CocoFile,
    parse_annotation,
    read_objects,
    without_collector,
)
from featherbone.data.formats.format import Format, Opened, Reading
from featherbone.data.layouts import ROBOFLOW, SPLITS, names_of, split_folders, split_of
from featherbone.data.listing import SUFFIXES, below, list_folder, list_names
from featherbone.data.named_files import NamedFiles
from featherbone.data.object_split import ObjectSplit
from featherbone.data.object_table import TableWriter
from featherbone.data.objects import Annotation, parse_json
from featherbone.errors import BadData
from featherbone.ops import rle

HEAD = 1 << 16
"""Number of bytes at both ends of a JSON file that are searched for COCO's keys."""
OTHER_FORMS = ("panoptic_", "captions_", "stuff_", "person_keypoints_", "image_info_")
"""Prefixes of COCO's files that do not hold objects."""


class CocoSplit(NamedTuple):
    """Files of a split."""

    file: Path
    folders: tuple[Path, ...]
    """Folders in which its images may be, most likely first."""
    exclusive: bool
    """Whether the first of them holds images of this split only."""


def find_coco(data: Path, split: str) -> CocoSplit | None:
    """The annotation file of a split, and the folders of its images.

    Those are COCO's `annotations/instances_{split}.json` and Roboflow's `{split}/_annotations.coco.json`; else another
    JSON file of COCO's form in `annotations` or `data` that names the split, or in a folder of the split. A single file
    without a split's name, as CVAT, Label Studio and FiftyOne write it, is that of training where there is no other.
    Raises `BadData` where there are several.
    """
    files = next(filter(None, _candidates(data, split)), [])
    if len(files) > 1:
        shown = ", ".join(below(data, file) for file in files)
        raise BadData(f"{data}: several annotation files for {split}: {shown}; keep one, or join them")
    return _with_folders(data, split, files[0]) if files else None


def _candidates(data: Path, split: str) -> Iterator[list[Path]]:
    """Annotation files of a split, in lists, the most specific names first."""
    beside = split_folders(data, split)
    official = {file.stem.removeprefix("instances_"): file for file in data.glob("annotations/instances_*.json")}
    roboflow = [folder / ROBOFLOW for folder in beside if (folder / ROBOFLOW).is_file()]
    yield roboflow + [official[name] for name in names_of(split, official)]
    loose = {file: _split_in(file) for folder in (data, data / "annotations") for file in _json_files(folder)}
    inner = [file for folder in beside for file in _json_files(folder)]
    yield inner + [file for file, named in loose.items() if named == split]
    if split == "train" and "val" not in loose.values() and not any(map(_json_files, split_folders(data, "val"))):
        yield [file for file, named in loose.items() if named is None]


def _split_in(file: Path) -> str | None:
    """The split that one word in the name of an annotation file names."""
    found = {split_of(word) for word in re.split(r"[\W_]+", file.stem)} - {None}
    return found.pop() if len(found) == 1 else None


def _json_files(folder: Path) -> list[Path]:
    """The JSON files in a folder that are of COCO's form for objects."""
    files = [file for file in list_folder(folder) if file.suffix.lower() == ".json"]
    return [file for file in files if not file.name.startswith(OTHER_FORMS) and file.is_file() and _is_coco(file)]


def _is_coco(file: Path) -> bool:
    """Whether a file has the keys of COCO's objects at both ends."""
    try:
        with file.open("rb") as opened:
            ends = opened.read(HEAD)
            opened.seek(max(len(ends), file.stat().st_size - HEAD))
            ends += opened.read(HEAD)
    except OSError:
        return False
    if ends.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        ends = ends.replace(b"\0", b"")[2:]
    keys = [f'"{key}"'.encode() in ends for key in ("images", "annotations", "categories")]
    rows = b'"image_id"' in ends or b'"annotations"' in ends
    return bool(re.match(rb"(\xef\xbb\xbf)?\s*{", ends)) and sum(keys) > 1 and rows and b'"segments_info"' not in ends


def _with_folders(data: Path, split: str, file: Path) -> CocoSplit:
    named = file.stem.removeprefix("instances_")
    if file.parent in (data, data / "annotations"):
        own = [data / named, data / "images" / named, *split_folders(data, split)]
        own += split_folders(data / "images", split)
        shared = [data / "images", data / "data"]
    else:
        own, shared = [file.parent / "images", file.parent / "data", file.parent], []
    own = [folder for folder in dict.fromkeys(own) if folder.is_dir()]
    shared = [folder for folder in shared if folder.is_dir()]
    no_splits = bool(shared) and _split_in(file) is None
    return CocoSplit(file, (*own, *shared, data), exclusive=bool(own) or no_splits)


class Coco(Format):
    """COCO's annotation files of objects."""

    name = "COCO"

    def tasks(self, folder: Path) -> frozenset[str]:
        """Detection and instance, also where a split has too many annotation files."""
        found = any(candidates for split in SPLITS for candidates in _candidates(folder, split))
        return frozenset(("detection", "instance") if found else ())

    @without_collector()
    def open(self, folder: Path, task: str, split: str, reading: Reading) -> Opened | None:
        found = find_coco(folder, split)
        if found is None:
            return None
        source = below(folder, found.file)
        file = read_objects(found.file, source)
        files = NamedFiles(folder, found.folders, source, split)
        writer, missing = TableWriter(), []
        places: dict[int, int | None] = {}
        for image in file.images:
            path = files.find_path(image.file_name)
            places[image.id] = None if path is None else writer.add_image(path, image.id, image.size)
            if path is None:
                missing.append(image.file_name)
        orphans, used = _add_objects(writer, file, places, source)
        categories, notes = _classes(file, used, source)
        notes += files.notes()
        beside = list_names(found.folders[0], SUFFIXES) if found.exclusive else []
        start, listed = below(folder, found.folders[0]), set(writer.paths)
        unlisted = [path for name in beside if (path := name if start == "." else f"{start}/{name}") not in listed]
        if reading.unlabelled == "negative":
            first = max(places, default=0) + 1
            for at, path in enumerate(unlisted, first):
                writer.add_image(path, at, None)
            unlisted = []
        return Opened(
            images=ObjectSplit(
                root=folder,
                table=writer.finish().labelled([category.id for category in categories]),
                classes=tuple(category.label for category in categories),
                category_ids=tuple(category.id for category in categories),
            ),
            missing=tuple(missing),
            unlisted=tuple(unlisted),
            orphans=orphans,
            notes=tuple(notes),
        )


def _classes(file: CocoFile[CocoCategory, Any], used: set[int], name: str) -> tuple[list[CocoCategory], list[str]]:
    """Categories by id, without Roboflow's root where it is not `used`, and what is to be noted."""
    categories = sorted(file.categories, key=lambda category: category.id)
    roots = [c for c in categories if c.supercategory == "none" and any(o.supercategory == c.name for o in categories)]
    notes = []
    if len(roots) == 1 and roots[0].id not in used:
        categories.remove(roots[0])
        notes = [f"category {roots[0].id}, {roots[0].label}, is the group of the others and has no object: no class"]
    seen: dict[str, int] = {}
    for category in categories:
        if category.label in seen:
            raise BadData(
                f"{name}: categories {seen[category.label]} and {category.id} have the name {category.label!r}, which "
                "one class may have; rename one, or join them"
            )
        seen[category.label] = category.id
    return categories, notes


def _add_objects(
    writer: TableWriter, file: CocoFile[CocoCategory, Any], places: Mapping[int, int | None], source: str
) -> tuple[int, set[int]]:
    """Move the annotations of a file to a table, by the `places` of their images there, None for images to skip.

    The number of annotations of images that are not listed, and the numbers of all classes.
    """
    rows, file.annotations = file.annotations, []  # which hold the text of the file
    orphans, used = 0, set()
    for number, row in enumerate(rows):
        one, error = parse_annotation(row, source, f"annotations[{number}]")
        used.add(one.category_id)
        if one.image_id not in places:
            orphans += 1
        elif (place := places[one.image_id]) is not None:
            writer.add(place, _annotation(one, error, f"{source}: annotations[{number}]"))
    return orphans, used


def _annotation(row: CocoAnnotation, error: str, place: str) -> Annotation:
    box, shape = row.bbox, row.shape
    if box is None and not error:
        mask = parse_json(shape)
        height, width = rle.stated_size(mask)  # that of the image may not be known yet
        if reason := rle.fault(mask, height, width):
            error = f"{place} has no bbox, and its mask cannot be read: {reason}; write one of the two"
        else:
            box = rle.outline(mask, height, width)
    if error or box is None:
        return Annotation(error=error)
    return Annotation(
        box=box,
        segmentation=shape or None,
        crowd=bool(row.iscrowd),
        area=row.area if row.area is not None and 0 < row.area < math.inf else math.nan,
        category_id=row.category_id,
        id=row.id,
    )
