"""YOLO's text files: a line an object, its class and its box or polygon in shares of the image's sides."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from featherbone.data.findings import Finding
from featherbone.data.formats.format import Format, Opened, Reading
from featherbone.data.formats.yolo_lines import Row, may_be_keypoints, read_rows, to_annotation
from featherbone.data.formats.yolo_lists import Listing, find_lists, has_polygons, read_list
from featherbone.data.listing import list_folder, list_images
from featherbone.data.named_files import NamedFiles
from featherbone.data.objects import Objects, ObjectSplit, size_of
from featherbone.errors import BadData
from featherbone.files import read_text


class Yolo(Format):
    """YOLO's text files; `folder` may be the `data.yaml` itself."""

    name = "YOLO"

    def tasks(self, folder: Path) -> frozenset[str]:
        """Detection where a file lists classes and images; instance where a label file has a polygon."""
        if not find_lists(folder):
            return frozenset()
        return frozenset(("detection", "instance") if has_polygons(folder) else ("detection",))

    def open(self, folder: Path, task: str, split: str, reading: Reading) -> Opened | None:
        """An image with an empty label file has no object; an image without a label file is not labelled."""
        listing = read_list(folder)
        if split not in listing.entries:
            return None
        root = listing.root
        paths, missing = _images(listing, split)
        files, unused = _label_files(root, paths)
        if all(place.is_dir() for place in listing.places[split]):
            missing += unused
        rows: dict[Path, list[Row]] = {}
        for path in paths:
            if file := files.get(path):
                rows[path] = read_rows(file, file.relative_to(root).as_posix(), listing.num_keypoint_values)
            elif reading.unlabelled == "negative":
                rows[path] = []
        every = [row for of in rows.values() for row in of]
        if listing.num_keypoint_values is None and may_be_keypoints(every):
            count = next(len(row.shape) for row in every if row.shape) - 4
            raise BadData(
                f"{listing.name}: the {split} labels have {count + 5} values a line, which may be polygons or boxes "
                f"with {count // 2} keypoints; write kpt_shape: [{count // 2}, 2] for keypoints, or kpt_shape: [] for "
                "polygons"
            )
        entries = []
        for number, (path, of) in enumerate(rows.items(), 1):
            size = size_of(path)
            annotations = [to_annotation(row, *size, len(listing.classes)) for row in of]
            entries.append(Objects.parsed(path.relative_to(root).as_posix(), number, *size, annotations))
        findings = []
        if not rows:
            message = (
                f"{listing.name}: no labelled image for {split} in {', '.join(listing.entries[split])}; labels are "
                "stored under the images' names, one .txt each, in labels/... for images/... or beside the images, "
                "empty where there is no object"
            )
            findings = [Finding("error", "no-labels", message, 1)]
        return Opened(
            images=ObjectSplit(root, tuple(entries), listing.classes, tuple(range(len(listing.classes)))),
            missing=tuple(missing),
            unlisted=tuple(path.relative_to(root).as_posix() for path in paths if path not in rows),
            notes=(*listing.notes, *_notes(every)),
            findings=tuple(findings),
        )


def _images(listing: Listing, split: str) -> tuple[list[Path], list[str]]:
    """The images of a split, sorted, and the names of those that are listed but not there."""
    if split not in listing.places:
        raise BadData(
            f"{listing.name}: there is no {', '.join(listing.entries[split])} in {listing.root}, and nothing outside "
            f"of it is read; put {listing.name} into the folder that holds the images, or link the images into it"
        )
    paths: dict[Path, None] = {}
    missing: list[str] = []
    for place in listing.places[split]:
        if place.is_dir():
            paths |= dict.fromkeys(list_images(place))
            continue
        name = place.relative_to(listing.root).as_posix()
        files = NamedFiles(listing.root, (place.parent, listing.root), name)
        for line in filter(None, map(str.strip, read_text(place, name).splitlines())):
            if found := files.find(line):
                paths[found] = None
            else:
                missing.append(line)
    return sorted(paths), missing


def _label_files(root: Path, paths: Sequence[Path]) -> tuple[dict[Path, Path], list[str]]:
    """The label file of each image that has one, and the names of those under `labels` that none of the images has."""
    folders = {parent: (*labels_folders(root, parent), parent) for parent in dict.fromkeys(p.parent for p in paths)}
    texts = {folder: _label_texts(folder) for among in folders.values() for folder in among}
    found: dict[Path, Path] = {}
    for path in paths:
        labels = [texts[folder][path.stem] for folder in folders[path.parent] if path.stem in texts[folder]]
        found |= {path: labels[0]} if labels else {}
    apart = {file for folder, files in texts.items() if folder not in folders for file in files.values()}
    return found, sorted(file.relative_to(root).as_posix() for file in apart - set(found.values()))


def _label_texts(folder: Path) -> dict[str, Path]:
    files = list_folder(folder) if folder.is_dir() else []
    return {file.stem: file for file in files if file.suffix.lower() == ".txt" and file.name != "classes.txt"}


def labels_folders(root: Path, folder: Path) -> list[Path]:
    """Where the labels of the images in a folder may be: under `labels` instead of the last `images` below `root`."""
    parts = folder.relative_to(root).parts
    last = next((i for i in reversed(range(len(parts))) if parts[i].lower() == "images"), None)
    if last is None:
        return []
    names = dict.fromkeys(("labels", "Labels", "LABELS" if parts[last].isupper() else "labels"))
    return [root.joinpath(*parts[:last], name, *parts[last + 1 :]) for name in names]


def _notes(rows: Sequence[Row]) -> list[str]:
    """What of the rows is not read, or in which way."""
    counts = Counter(row.ignored for row in rows if row.ignored)
    notes = [
        f"{what} of {counts[what]:,} objects are not read, only their boxes or polygons" for what in sorted(counts)
    ]
    corners = [len(row.shape) // 2 for row in rows if len(row.shape) > 4]
    if corners and set(corners) == {4}:
        notes.append(
            f"{len(corners):,} objects with four corners, as rotated boxes have, are read as polygons, with the "
            "upright boxes around them"
        )
    return notes
