"""COCO's annotation files, as COCO itself and the tools that write its form name them."""

import codecs
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from featherbone.data.findings import listed, many
from featherbone.data.formats.coco_json import CocoAnnotation, CocoCategory, CocoFile, read_objects, without_collector
from featherbone.data.images import upright_size
from featherbone.data.layouts import ROBOFLOW, SPLITS, names_of, split_folders, split_of
from featherbone.data.listing import list_images
from featherbone.data.named_files import NamedFiles
from featherbone.data.objects import Marked, MarkedImages, Opened
from featherbone.errors import BadData, BadImage
from featherbone.ops import rle

HEAD = 1 << 16
"""Bytes at both ends of a JSON file that are searched for COCO's keys."""
OTHER_FORMS = ("panoptic_", "captions_", "stuff_", "person_keypoints_", "image_info_")
"""What names of files begin with that COCO gives beside those of objects."""


@dataclass(frozen=True)
class CocoSplit:
    """Where a split is stored."""

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
    if not data.is_dir():
        return None
    for candidates in _candidates(data, split):
        if len(candidates) > 1:
            shown = ", ".join(file.relative_to(data).as_posix() for file in candidates)
            raise BadData(f"{data}: several annotation files for {split}: {shown}; keep one, or join them")
        if candidates:
            return _with_folders(data, split, candidates[0])
    return None


def has_coco(data: Path) -> bool:
    """Whether there is an annotation file of any split; also where there are too many."""
    return any(candidates for split in SPLITS for candidates in _candidates(data, split))


def _candidates(data: Path, split: str) -> Iterator[list[Path]]:
    """Annotation files of a split, in lists from the surest form to the least sure."""
    beside = split_folders(data, split)
    official = {file.stem.removeprefix("instances_"): file for file in data.glob("annotations/instances_*.json")}
    yield [
        *(folder / ROBOFLOW for folder in beside if (folder / ROBOFLOW).is_file()),
        *(official[name] for name in names_of(split, official)),
    ]
    loose = {file: _split_in(file) for folder in (data, data / "annotations") for file in _json_files(folder)}
    inner = [file for folder in beside for file in _json_files(folder)]
    yield inner + [file for file, named in loose.items() if named == split]
    val = [file for folder in split_folders(data, "val") for file in _json_files(folder)]
    if split == "train" and "val" not in loose.values() and not val:
        yield [file for file, named in loose.items() if named is None]


def _split_in(file: Path) -> str | None:
    """The split that one word in the name of an annotation file names."""
    found = {split_of(word) for word in re.split(r"[\W_]+", file.stem)} - {None}
    return found.pop() if len(found) == 1 else None


def _json_files(folder: Path) -> list[Path]:
    """The JSON files in a folder that are of COCO's form for objects, by their keys at both ends."""
    if not folder.is_dir():
        return []
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".json")
    return [file for file in files if not file.name.startswith((".", *OTHER_FORMS)) and _is_coco(file)]


def _is_coco(file: Path) -> bool:
    if not file.is_file():
        return False
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
    whole = bool(shared) and _split_in(file) is None  # there are no splits
    return CocoSplit(file, (*own, *shared, data), bool(own) or whole)


@without_collector()
def open_coco(data: Path, split: str, unlabelled: str, check: bool) -> Opened | None:
    """Images of a split with their objects; None where there is no annotation file for it.

    With `check`, `BadData` is raised for annotations that cannot be trained on. Without it a class that is not listed
    is -1, and an annotation that cannot be read has `error` and an empty box.
    """
    found = find_coco(data, split)
    if found is None:
        return None
    name = found.file.relative_to(data).as_posix()
    file, errors = read_objects(found.file, name)
    categories, notes = _classes(file, name)
    images = {image.id: image for image in file.images}
    rows: dict[int, list[int]] = defaultdict(list)
    for place, row in enumerate(file.annotations):
        rows[row.image_id].append(place)
    orphans = [number for number in rows if number not in images]
    if orphans and check:
        count = sum(len(rows[number]) for number in orphans)
        raise BadData(
            f"{name}: {count} annotations of images that it does not list, as {orphans[0]}; list or remove them"
        )
    labels = {category.id: label for label, category in enumerate(categories)}
    files = NamedFiles(data, found.folders, name, split)
    entries: list[Marked] = []
    missing: list[str] = []
    for image in file.images:
        path = files.find(image.file_name)
        if path is None:
            missing.append(image.file_name)
            continue
        height, width = image.size or _size(path)
        annotations = [
            _annotation(
                file.annotations[place], labels, height, width, errors.get(place), f"{name}: annotations[{place}]"
            )
            for place in rows.get(image.id, ())
        ]
        entries.append(Marked(path.relative_to(data).as_posix(), height, width, image.id, tuple(annotations)))
    if missing and not entries and check:
        looked = ", ".join(folder.relative_to(data).as_posix() for folder in found.folders)
        raise BadData(
            f"{name}: none of its {len(missing)} images exists, as {missing[0]}; looked in {looked}, and for the plain "
            "name anywhere below; copy the images there"
        )
    notes += _note_guesses(files)
    unlisted = _unlisted(data, found.folders[0], {entry.path for entry in entries}) if found.exclusive else []
    if unlabelled == "negative":
        for number, spare in enumerate(unlisted, max(images, default=0) + 1):
            entries.append(Marked(spare, *_size(data / spare), number, ()))
        unlisted = []
    if check:
        _refuse(entries, labels, name)
    masks = all(a.get("segmentation") or a["iscrowd"] for entry in entries for a in entry.annotations)
    classes, ids = tuple(c.label for c in categories), tuple(labels)
    opened = MarkedImages(data, tuple(entries), classes, ids, masks)
    return Opened(opened, tuple(missing), tuple(unlisted), sum(len(rows[i]) for i in orphans), tuple(notes))


def _classes(file: CocoFile, name: str) -> tuple[list[CocoCategory], list[str]]:
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
    row: CocoAnnotation, labels: dict[int, int], height: int, width: int, error: str | None, place: str
) -> dict[str, Any]:
    """An annotation of an image of that size, in the form of `Marked`."""
    box = row.bbox
    if box is None and error is None:
        if reason := rle.fault(row.segmentation, height, width):
            error = f"{place} has no bbox, and its mask cannot be read: {reason}; write one of the two"
        else:
            box = rle.outline(row.segmentation, height, width)
    number = {} if row.id is None else {"id": row.id}
    if error is not None:
        return {
            **number,
            "category_id": row.category_id,
            "bbox": [0, 0, 0, 0],
            "label": -1,
            "iscrowd": False,
            "error": error,
        }
    annotation = {**number, "category_id": row.category_id, "bbox": box, "label": labels.get(row.category_id, -1)}
    annotation["iscrowd"] = bool(row.iscrowd)
    if row.segmentation:
        annotation["segmentation"] = row.segmentation
    if row.area is not None and 0 < row.area < math.inf:
        annotation["area"] = row.area
    return annotation


def _refuse(entries: Sequence[Marked], labels: dict[int, int], name: str) -> None:
    """Raise `BadData` for the first annotation that cannot be trained on."""
    for a in (a for entry in entries for a in entry.annotations if a["label"] < 0):
        raise BadData(
            a.get("error")
            or f"{name}: annotation {a.get('id')} is of category {a['category_id']}; listed are "
            f"{listed([str(number) for number in labels])}; list it, or remove the annotation"
        )


def _note_guesses(files: NamedFiles) -> list[str]:
    if not files.guesses:
        return []
    name, path = next(iter(files.guesses.items()))
    where = path.relative_to(files.root).as_posix()
    return [f"{many(len(files.guesses), 'image')} found by the plain name only, as {where} for {name!r}"]


def _size(path: Path) -> tuple[int, int]:
    try:
        return upright_size(path)
    except BadImage:
        return 1, 1  # it is left out as unreadable before anything is made of it


def find_image(folders: Sequence[Path], name: str, file: str) -> Path | None:
    """Where an image is stored."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise BadData(f"{file}: file_name {name!r} leads out of the data folder; give paths below it")
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _unlisted(data: Path, folder: Path, listed: set[str]) -> list[str]:
    return [name for path in list_images(folder) if (name := path.relative_to(data).as_posix()) not in listed]
