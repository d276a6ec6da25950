"""COCO's annotation files, as COCO itself and the tools that write its form name them."""

import codecs
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from featherbone.data.formats.coco_json import CocoAnnotation, CocoCategory, CocoFile, read_objects, without_collector
from featherbone.data.formats.format import Format, Opened, Reading
from featherbone.data.layouts import ROBOFLOW, SPLITS, names_of, split_folders, split_of
from featherbone.data.listing import below, list_folder, list_images
from featherbone.data.named_files import NamedFiles
from featherbone.data.objects import Annotation, Objects, ObjectSplit, size_of
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
        file, errors = read_objects(found.file, source)
        categories, notes = _classes(file, source)
        labels = {category.id: label for label, category in enumerate(categories)}
        places: dict[int, list[int]] = defaultdict(list)
        for place, row in enumerate(file.annotations):
            places[row.image_id].append(place)
        files = NamedFiles(folder, found.folders, source, split)
        entries: list[Objects] = []
        missing: list[str] = []
        for image in file.images:
            rows = places.pop(image.id, ())
            path = files.find(image.file_name)
            if path is None:
                missing.append(image.file_name)
                continue
            height, width = image.size or size_of(path)
            annotations = [
                _annotation(
                    file.annotations[at], labels, (height, width), errors.get(at), f"{source}: annotations[{at}]"
                )
                for at in rows
            ]
            name = below(folder, path)
            entries.append(Objects.parsed(name, image.id, height, width, annotations))
        notes += files.notes()
        beside = list_images(found.folders[0]) if found.exclusive else []
        listed = {one.path for one in entries}
        unlisted = [name for path in beside if (name := below(folder, path)) not in listed]
        if reading.unlabelled == "negative":
            first = max((image.id for image in file.images), default=0) + 1
            entries += [
                Objects.parsed(name, at, *size_of(folder / name), ()) for at, name in enumerate(unlisted, first)
            ]
            unlisted = []
        return Opened(
            images=ObjectSplit(folder, tuple(entries), tuple(c.label for c in categories), tuple(labels)),
            missing=tuple(missing),
            unlisted=tuple(unlisted),
            orphans=sum(map(len, places.values())),
            notes=tuple(notes),
        )


def _classes(file: CocoFile[CocoCategory, CocoAnnotation], name: str) -> tuple[list[CocoCategory], list[str]]:
    """Categories by id, without Roboflow's unused root, and what is to be noted."""
    categories = sorted(file.categories, key=lambda category: category.id)
    roots = [c for c in categories if c.supercategory == "none" and any(o.supercategory == c.name for o in categories)]
    used = {row.category_id for row in file.annotations} if roots else set()
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


def _annotation(
    row: CocoAnnotation, labels: dict[int, int], size: tuple[int, int], error: str | None, place: str
) -> Annotation:
    box = row.bbox
    if box is None and error is None:
        if reason := rle.fault(row.segmentation, *size):
            error = f"{place} has no bbox, and its mask cannot be read: {reason}; write one of the two"
        else:
            box = rle.outline(row.segmentation, *size)
    if error is not None or box is None:
        return Annotation(error=error or "", category_id=row.category_id, id=row.id)
    return Annotation(
        label=labels.get(row.category_id, -1),
        box=box,
        segmentation=row.segmentation or None,
        crowd=bool(row.iscrowd),
        area=row.area if row.area is not None and 0 < row.area < math.inf else math.nan,
        category_id=row.category_id,
        id=row.id,
    )
