"""A COCO panoptic set made from objects with masks and from maps of classes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherbone.data.dataset import open_checked
from featherbone.data.findings import listed
from featherbone.data.formats.coco import find_coco
from featherbone.data.label_files import Code, read_code
from featherbone.data.layouts import TRAINING_SPLITS, split_folders
from featherbone.data.listing import is_stack
from featherbone.data.map_files import panoptic_categories, write_panoptic
from featherbone.data.object_split import ObjectSplit
from featherbone.data.objects import Objects
from featherbone.errors import BadData
from featherbone.files import atomic_folder, check_new_folder, write_bytes, write_json
from featherbone.ops import rle
from featherbone.ops.label_maps import IGNORE
from featherbone.progress import track


@dataclass
class OverlapCounts:
    """Counts of how overlaps were resolved, in pixels unless stated otherwise."""

    images: int = 0
    """Images written."""
    things: int = 0
    """Segments of things written."""
    stuff: int = 0
    """Segments of stuff written."""
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Pixels of two things at once, by the name of the upper, smaller one and that of the lower one."""
    vanished: list[str] = field(default_factory=list)
    """Things that are wholly covered, by image and annotation."""
    under_things: int = 0
    """Pixels of stuff that are covered by a thing."""
    no_thing: int = 0
    """Pixels of a class of things that no thing covers: void."""
    void: int = 0
    """Pixels without a segment."""
    pixels: int = 0
    """Pixels of all images."""
    unmapped: list[str] = field(default_factory=list)
    """Images without a map of classes: their stuff is void."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        pairs = [{"over": over, "under": under, "pixels": n} for (over, under), n in self.pairs.most_common()]
        return {**self.__dict__, "pairs": pairs}

    def __str__(self) -> str:
        counts = (self.void, self.under_things, self.no_thing, sum(self.pairs.values()))
        void, under, no_thing, overlaps = (f"{count / max(self.pixels, 1):.2%}" for count in counts)
        lines = [
            f"{self.images:,} images, {self.things:,} things, {self.stuff:,} segments of stuff",
            f"{void} void; {under} stuff under things; "
            f"{no_thing} of a thing's class without an annotated object, made void",
            f"{overlaps} of two things at once, assigned to the smaller one",
        ]
        lines += [f"  {over} over {under}: {count:,} pixels" for (over, under), count in self.pairs.most_common(5)]
        if self.vanished:
            lines.append(f"{len(self.vanished)} things that are wholly covered: {listed(self.vanished)}")
        if self.unmapped:
            lines.append(f"{len(self.unmapped)} images without a map of classes: {listed(self.unmapped)}")
        return "\n".join(lines)


def make_panoptic_set(
    instances: Path, semantic: Path, out: Path, ignore_index: int | None = None, zero_ignored: bool = False
) -> OverlapCounts:
    """Write a COCO panoptic set into `out`, a new or empty folder, and return how overlaps were resolved.

    `instances` is a folder in COCO's layout, every object with a mask; `semantic` has `masks/{train,val}/*.png`, or
    `{train,val}/*.png`, named as the images, and `classes.txt`. Its classes without objects are stuff. Things are
    placed on stuff, smaller things on larger ones, and crowds below. A pixel of a thing's class without an object is
    void.
    """
    check_new_folder(out)
    code = read_code(semantic, ignore_index, zero_ignored)
    counts = OverlapCounts()
    with atomic_folder(out) as new:
        done = [split for split in TRAINING_SPLITS if _write_split(split, instances, semantic, new, code, counts)]
        if not done:
            raise BadData(f"{instances}: no annotations/instances_train.json or _val.json there")
        write_json(new / "overlaps.json", counts.to_json())
    return counts


def _write_split(split: str, instances: Path, semantic: Path, out: Path, code: Code, counts: OverlapCounts) -> bool:
    opened = open_checked(instances, "instance", split, {}) if find_coco(instances, split) else None
    if opened is None:
        return False
    objects = opened.images
    assert isinstance(objects, ObjectSplit), "objects are read"
    if not objects.has_masks:
        raise BadData(
            f"{instances}: not every object of {split} has a mask; annotate them with polygons or run lengths"
        )
    folder = next(iter(split_folders(semantic / "masks", split) + split_folders(semantic, split)), None)
    if folder is None:
        raise BadData(f"{semantic}: neither masks/{split} nor {split} there; put the index PNGs of {split} into one")
    names = (*objects.classes, *(name for name in code.names if name not in objects.classes))
    free = max(objects.category_ids) + 1
    numbers = (*objects.category_ids, *range(free, free + len(names) - len(objects.classes)))
    images, annotations = [], []
    for index in track(range(len(objects)), f"writing {split}", len(objects)):
        objects.check_size(index)
        truth = objects.truth(index)
        labels = _read_labels(folder / Path(truth.path).with_suffix(".png").name, code, names, truth)
        if labels is None:
            counts.unmapped.append(truth.path)
        ids, segments = _place(truth, labels, objects.classes, counts)
        file = f"{truth.image_id:012}.png"
        write_panoptic(out / f"panoptic_{split}" / file, ids)
        rows = [_row(ids, number, numbers[label], crowd) for number, label, crowd in segments]
        annotations.append({"image_id": truth.image_id, "file_name": file, "segments_info": rows})
        path = Path(truth.path)
        target = out / split / (path.with_suffix(".npy") if is_stack(path) else path).name
        if target.exists():
            raise BadData(f"{truth.path}: another image of {split} has the same name; give each a different one")
        write_bytes(target, objects.encoded(index))
        size = {"height": truth.height, "width": truth.width}
        images.append({"id": truth.image_id, "file_name": target.name, **size})
    categories = panoptic_categories(names, range(len(objects.classes)), numbers)
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(out / "annotations" / f"panoptic_{split}.json", content)
    return True


def _read_labels(path: Path, code: Code, names: Sequence[str], truth: Objects) -> NDArray[np.int64] | None:
    """Indices of `names` (H, W), -1 where nothing is known; None where there is no file."""
    if not path.is_file():
        return None
    labels = code.classes(*code.read(path, str(path)))
    if labels.shape != (truth.height, truth.width):
        sizes = f"{labels.shape[1]}x{labels.shape[0]} pixels for an image of {truth.width}x{truth.height}"
        raise BadData(f"{path}: {sizes}")
    if (labels < 0).any():
        raise BadData(f"{path}: values that are no class; list them in classes.txt, or ignore one with --ignore-index")
    table = np.full(IGNORE + 1, -1, np.int64)
    table[: len(code.names)] = [names.index(name) for name in code.names]
    return table[labels]


def _place(
    objects: Objects, labels: NDArray[np.int64] | None, things: Sequence[str], counts: OverlapCounts
) -> tuple[NDArray[np.int32], list[tuple[int, int, bool]]]:
    """Segment ids (H, W), and number, class and crowd of each segment."""
    ids = np.zeros((objects.height, objects.width), np.int32)
    masks = [objects.mask(i) for i in range(len(objects))]
    for i in sorted(range(len(masks)), key=lambda i: (not objects.crowd[i], -int(masks[i].sum()))):
        for under, count in zip(*np.unique(ids[masks[i]], return_counts=True), strict=True):
            if under:
                counts.pairs[things[objects.labels[i]], things[objects.labels[under - 1]]] += int(count)
        ids[masks[i]] = 1 + i  # on top of those before it
    left = [i for i in range(len(masks)) if (ids == 1 + i).any()]
    counts.vanished += [f"{objects.path} object {i + 1}" for i in range(len(masks)) if i not in left]
    segments = [(1 + i, int(objects.labels[i]), bool(objects.crowd[i])) for i in left]
    if labels is not None:
        stuff, free = labels >= len(things), ids == 0
        counts.under_things += int((stuff & ~free).sum())
        counts.no_thing += int(((labels >= 0) & ~stuff & free).sum())
        for label in np.unique(labels[stuff & free]).tolist():
            number = 1 + len(masks) + label - len(things)
            ids[(labels == label) & free] = number
            segments.append((number, label, False))
    counts.images += 1
    counts.things += len(left)
    counts.stuff += len(segments) - len(left)
    counts.void += int((ids == 0).sum())
    counts.pixels += ids.size
    return ids, segments


def _row(ids: NDArray[np.int32], number: int, category: int, crowd: bool) -> dict[str, Any]:
    mask = ids == number
    x1, y1, x2, y2 = rle.box_of(mask)
    box = [x1, y1, x2 - x1, y2 - y1]
    return {"id": number, "category_id": category, "area": int(mask.sum()), "bbox": box, "iscrowd": int(crowd)}
