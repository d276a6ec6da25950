"""COCO's annotation files, as COCO itself names them and as Roboflow exports them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any

from featherbone.data.images import upright_size
from featherbone.data.layouts import ROBOFLOW, names_of, split_folders
from featherbone.data.listing import list_images
from featherbone.data.objects import Marked, MarkedImages, Opened
from featherbone.errors import BadData, BadImage
from featherbone.files import read_json


def find_coco(data: Path, split: str) -> tuple[Path, list[Path]] | None:
    """The annotation file of a split, and the folders in which its images may lie, most likely first."""
    beside = split_folders(data, split)
    for folder in beside:
        if (folder / ROBOFLOW).is_file():
            return folder / ROBOFLOW, [folder]
    stems = {file.stem.removeprefix("instances_"): file for file in data.glob("annotations/instances_*.json")}
    for own in names_of(split, stems):
        folders = [data / own, data / "images" / own, *beside, *split_folders(data / "images", split)]
        there = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
        return stems[own], [*there, data / "images", data]
    return None


def open_coco(data: Path, split: str, unlabelled: str, check: bool) -> Opened | None:
    """Images of a split with their objects; None where there is no annotation file for it.

    With `check`, `BadData` is raised for annotations that cannot be trained on. Without it a class that is not listed
    is -1, and a box that is none is empty.
    """
    found = find_coco(data, split)
    if found is None:
        return None
    path, folders = found
    file = path.relative_to(data).as_posix()
    images, annotations, categories = read_coco(path, file)
    ids = sorted(categories)
    labels = {number: label for label, number in enumerate(ids)}
    marked: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for a in annotations:
        marked[a["image_id"]].append(_annotation(a, labels, file, check))
    orphans = sum(len(of) for number, of in marked.items() if number not in images)
    if orphans and check:
        odd = next(number for number in marked if number not in images)
        raise BadData(f"{file}: {orphans} annotations of images that it does not list, as {odd!r}; list or remove them")
    entries, missing = [], []
    for number, image in images.items():
        place = find_image(folders, image["file_name"], file)
        if place is None:
            missing.append(image["file_name"])
            continue
        entries.append(_entry(place.relative_to(data).as_posix(), place, image, number, marked.get(number, [])))
    if missing and not entries and check:
        looked = ", ".join(folder.relative_to(data).as_posix() for folder in folders)
        raise BadData(f"{file}: none of its {len(missing)} images is there, as {missing[0]}; looked in {looked}")
    unlisted = _unlisted(data, folders[0], {entry.path for entry in entries})
    if unlabelled == "negative":
        last = max(images, default=0)
        for number, name in enumerate(unlisted, last + 1):
            entries.append(_entry(name, data / name, {}, number, []))
        unlisted = []
    masks = all(a.get("segmentation") or a["iscrowd"] for entry in entries for a in entry.annotations)
    names = tuple(categories[number] for number in ids)
    marked_images = MarkedImages(data, tuple(entries), names, tuple(ids), masks)
    return Opened(marked_images, tuple(missing), tuple(unlisted), orphans)


def read_coco(path: Path, name: str) -> tuple[dict[int, Any], list[dict[str, Any]], dict[int, str]]:
    """Images by id, annotations, and class names by id. Raises `BadData` for what is not COCO's form."""
    content = read_json(path, name)
    try:
        images = {int(image["id"]): image for image in content["images"]}
        categories = {int(category["id"]): str(category["name"]) for category in content["categories"]}
        annotations = content["annotations"]
        if not all(isinstance(image["file_name"], str) for image in images.values()):
            raise TypeError("a file_name that is no text")
        if not all(isinstance(a["image_id"], int) and isinstance(a["category_id"], int) for a in annotations):
            raise TypeError("an annotation whose image_id or category_id is no whole number")
        counts = len(images) - len(content["images"]), len(categories) - len(content["categories"])
    except (KeyError, TypeError, ValueError) as error:
        told = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise BadData(f"{name}: not COCO's form ({told}); it has images, annotations and categories") from None
    if any(counts):
        raise BadData(f"{name}: an id given to two {'images' if counts[0] else 'categories'}; number them anew")
    if not categories:
        raise BadData(f"{name}: no categories; list the classes")
    return images, annotations, categories


def _annotation(a: Mapping[str, Any], labels: Mapping[int, int], file: str, check: bool) -> dict[str, Any]:
    """An annotation with its class index."""
    box: Any = a.get("bbox")
    label = labels.get(a["category_id"], -1)
    sound = isinstance(box, list) and len(box) == 4 and all(isinstance(x, int | float) and isfinite(x) for x in box)
    if check and not sound:
        raise BadData(f"{file}: annotation {a.get('id')}: bbox {box!r}; give x, y, width and height in pixels")
    if check and label < 0:
        raise BadData(
            f"{file}: annotation {a.get('id')} is of category {a['category_id']}; listed are "
            f"{', '.join(map(str, labels))}"
        )
    return {**a, "bbox": box if sound else [0, 0, 0, 0], "label": label, "iscrowd": bool(a.get("iscrowd", 0))}


def _entry(name: str, path: Path, image: Mapping[str, Any], number: int, annotations: list[Any]) -> Marked:
    size = image.get("height"), image.get("width")
    if not all(isinstance(side, int) and side > 0 for side in size):
        try:
            size = upright_size(path)
        except BadImage:
            size = (1, 1)  # it is left out as unreadable before anything is made of it
    return Marked(name, size[0], size[1], number, tuple(annotations))  # type: ignore[arg-type]


def find_image(folders: Sequence[Path], name: str, file: str) -> Path | None:
    """Where an image lies."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise BadData(f"{file}: file_name {name!r} leads out of the data folder; give paths below it")
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _unlisted(data: Path, folder: Path, listed: set[str]) -> list[str]:
    if folder in (data, data / "images"):  # both splits lie there
        return []
    return [name for path in list_images(folder) if (name := path.relative_to(data).as_posix()) not in listed]
