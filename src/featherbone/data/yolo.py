"""YOLO's text files: a line an object, its class and its box or polygon in shares of the image's sides."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from featherbone.data.images import upright_size
from featherbone.data.listing import list_folder, list_images
from featherbone.data.named_files import NamedFiles
from featherbone.data.objects import Marked, MarkedImages, Opened
from featherbone.data.yolo_lines import Row, may_be_keypoints, read_rows, to_annotation
from featherbone.data.yolo_lists import Listing, find_lists, has_polygons, read_list
from featherbone.errors import BadData, BadImage
from featherbone.files import read_text


class Yolo:
    """YOLO's format in the registry of formats."""

    name = "YOLO"

    def matches(self, folder: Path) -> bool:
        """Whether there is a list of classes and images, as `data.yaml`, or `folder` is such a file itself."""
        return bool(find_lists(folder))

    def tasks(self, folder: Path) -> frozenset[str]:
        """Detection, and instance where one of the first label files has a polygon."""
        return frozenset(("detection", "instance") if has_polygons(folder) else ("detection",))

    def open(self, folder: Path, split: str, unlabelled: str, check: bool) -> Opened | None:
        """As `open_yolo`."""
        return open_yolo(folder, split, unlabelled, check)


def open_yolo(data: Path, split: str, unlabelled: str, check: bool) -> Opened | None:
    """Images of a split with their objects; None where the list of `data` names no images for it.

    An image with an empty label file shows no object; one without a file is not labelled. With `check`, `BadData` is
    raised for lines that cannot be trained on. Without it a class that is not listed is -1, and a line that cannot be
    read is an annotation with `error`.
    """
    listing = read_list(data)
    if split not in listing.sources:
        return None
    paths, missing = _images(listing, split)
    files, unused = _label_files(listing.root, paths)
    if all(place.is_dir() for place in listing.places[split]):
        missing += unused
    unlisted: list[str] = []
    rows: dict[Path, list[Row]] = {}
    for path in paths:
        name = path.relative_to(listing.root).as_posix()
        if path in files:
            rows[path] = read_rows(
                files[path], files[path].relative_to(listing.root).as_posix(), listing.num_keypoint_values
            )
        elif unlabelled == "leave-out":
            unlisted.append(name)
        else:
            rows[path] = []
    if check and not rows:
        raise BadData(
            f"{listing.name}: no labelled image for {split} in {listing.sources[split]}; labels are stored under the "
            "images' names, one .txt each, in labels/... for images/... or beside the images, empty where there is no "
            "object"
        )
    every = [row for of in rows.values() for row in of]
    if listing.num_keypoint_values is None and may_be_keypoints(every):
        count = next(len(row.shape) for row in every if row.shape) - 4
        raise BadData(
            f"{listing.name}: the {split} labels have {count + 5} values a line, which may be polygons or boxes with "
            f"{count // 2} keypoints; write kpt_shape: [{count // 2}, 2] for keypoints, or kpt_shape: [] for polygons"
        )
    entries: list[Marked] = []
    for path, of in rows.items():
        try:
            height, width = upright_size(path)
        except BadImage:
            height = width = 1  # it is left out as unreadable before anything is made of it
        annotations = tuple(to_annotation(row, height, width, len(listing.classes)) for row in of)
        for row, annotation in zip(of, annotations, strict=True) if check else ():
            if "error" in annotation:
                raise BadData(annotation["error"])
            if annotation["label"] < 0:
                raise BadData(f"{row.where}: class {row.label:g} is outside 0 to {len(listing.classes) - 1}")
        name = path.relative_to(listing.root).as_posix()
        entries.append(Marked(name, height, width, len(entries) + 1, annotations))
    masks = all(a.get("segmentation") for entry in entries for a in entry.annotations)
    images = MarkedImages(
        root=listing.root,
        entries=tuple(entries),
        classes=listing.classes,
        category_ids=tuple(range(len(listing.classes))),
        has_masks=masks,
    )
    notes = (*listing.notes, *_notes(every))
    return Opened(images, tuple(missing), tuple(unlisted), 0, notes)


def _images(listing: Listing, split: str) -> tuple[list[Path], list[str]]:
    """The images of a split, sorted, and the names of those that are listed but not there."""
    if split not in listing.places:
        raise BadData(
            f"{listing.name}: there is no {listing.sources[split]} in {listing.root}, and nothing outside of it is "
            f"read; put {listing.name} into the folder that holds the images, or link the images into it"
        )
    paths: dict[Path, None] = {}
    missing: list[str] = []
    for place in listing.places[split]:
        if place.is_dir():
            paths |= dict.fromkeys(list_images(place))
            continue
        name = place.relative_to(listing.root).as_posix()
        files = NamedFiles(listing.root, (place.parent, listing.root), name)
        for line in map(str.strip, read_text(place, name).splitlines()):
            if line:
                found = files.find(line)
                paths |= {found: None} if found else {}
                missing += [] if found else [line]
    return sorted(paths), missing


def _label_files(root: Path, paths: Sequence[Path]) -> tuple[dict[Path, Path], list[str]]:
    """The label file of each image that has one, and the names of those under `labels` that none of the images has."""
    parents = list(dict.fromkeys(path.parent for path in paths))
    folders = {parent: (*labels_folders(root, parent), parent) for parent in parents}
    inside = {folder: _label_texts(folder) for among in folders.values() for folder in among}
    found = {}
    for path in paths:
        label = next((inside[f][path.stem] for f in folders[path.parent] if path.stem in inside[f]), None)
        if label is not None:
            found[path] = label
    apart = [file for folder, files in inside.items() if folder not in folders for file in files.values()]
    return found, sorted(file.relative_to(root).as_posix() for file in set(apart) - set(found.values()))


def _label_texts(folder: Path) -> dict[str, Path]:
    """Text files in a folder by their stems."""
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
    notes = []
    counts = Counter(row.ignored for row in rows)
    for what in ("keypoints", "tracks"):
        if counts[what]:
            notes.append(f"{what} of {counts[what]:,} objects are not read, only their boxes or polygons")
    corners = [len(row.shape) // 2 for row in rows if len(row.shape) > 4]
    if corners and set(corners) == {4}:
        notes.append(
            f"{len(corners):,} objects with four corners, as rotated boxes have, are read as polygons, with the "
            "upright boxes around them"
        )
    return notes
