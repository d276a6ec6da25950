"""Collecting the table of a data set: each image, annotation and map is read once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco
from numpy.typing import NDArray
from PIL import ImageFile

from featherbone.data.doctor.duplicates import hash_image
from featherbone.data.doctor.table import ImageRow, MapFacts, ObjectColumns, Picture, Segment, Table, Truth
from featherbone.data.formats.class_folders import LabelSplit
from featherbone.data.formats.masks import MaskSplit
from featherbone.data.formats.panoptic import PanopticSplit
from featherbone.data.images import WHITES, is_deep, open_image, orientation_of, read_image, white_of
from featherbone.data.objects import ObjectSplit
from featherbone.data.scan import look_at_each
from featherbone.data.split import Split
from featherbone.errors import BadImage
from featherbone.ops import rle
from featherbone.ops.label_maps import IGNORE

Values = NDArray[np.integer]


def truth_of(images: Split[Any]) -> Truth:
    """Kind of the annotations of a split."""
    match images:
        case LabelSplit():
            return "labels"
        case ObjectSplit():
            return "objects"
        case MaskSplit():
            return "values"
        case PanopticSplit():
            return "segments"
    return "other"


def collect(splits: Mapping[str, Split[Any]], task: str, input_size: int = 0, pixels: bool = True) -> Table:
    """The table of the splits of a data set, all of one class.

    Classes of the splits are joined by name, but for maps, which number them alike. Without `pixels` no image, map or
    mask is read, and the table serves the checks that need none.
    """
    truth: Truth = next(map(truth_of, splits.values()), "other")
    lists = [images.classes for images in splits.values()]
    known = [name for names in (lists[:1] if truth in ("values", "segments") else lists) for name in names]
    for images in splits.values():
        if isinstance(images, LabelSplit):
            known += [_class_name(images, label) for label in np.unique(images.labels).tolist()]
    classes = {name: label for label, name in enumerate(dict.fromkeys(known))}
    rows: list[ImageRow] = []
    for split, images in splits.items():

        def collect_image(index: int, split: str = split, images: Split[Any] = images) -> ImageRow:
            row = ImageRow(images, index, split, images.name(index))
            if isinstance(images, ObjectSplit):
                entry = images.entries[index]
                row = replace(row, stated_size=(entry.width, entry.height), faults=entry.errors)
            elif isinstance(images, LabelSplit):
                row = replace(row, label=classes[_class_name(images, images.truth(index))])
            return _look(row) if pixels else row

        indices = range(len(images))
        rows += look_at_each(images, collect_image, f"examining {split}") if pixels else map(collect_image, indices)
    objects = [images for images in splits.values() if isinstance(images, ObjectSplit)]
    readers: dict[Truth, Callable[[Any, int], tuple[Values, Values]]] = {"values": _read_values, "segments": _read_ids}
    return Table(
        task=task,
        truth=truth,
        input_size=input_size,
        classes=tuple(classes),
        class_ids={split: _class_ids(images) for split, images in splits.items()},
        images=tuple(rows),
        objects=_collect_objects(objects, classes, masks=task == "instance", pixels=pixels),
        read_map=readers.get(truth),
    )


def _class_ids(images: Split[Any]) -> dict[int, str]:
    ids = images.category_ids if isinstance(images, ObjectSplit) else range(len(images.classes))
    return dict(zip(ids, images.classes, strict=True))


def _class_name(images: LabelSplit, label: int) -> str:
    return images.classes[label] if 0 <= label < len(images.classes) else f"label {label}"


def _look(row: ImageRow) -> ImageRow:
    """The row of an image with what is kept of its pixels and of its map."""
    facts, size = MapFacts(), row.stated_size
    if isinstance(row.source, MaskSplit):
        facts, size = _semantic_facts(row.source, row.index)
    elif isinstance(row.source, PanopticSplit):
        facts, size = _panoptic_facts(row.source, row.index)
    row = replace(row, map=facts, stated_size=size)
    try:
        return replace(row, picture=look_at(row.source, row.index))
    except (BadImage, OSError) as error:
        return replace(row, error=str(error).removeprefix(f"{row.name}: "))


def look_at(images: Split[Any], index: int) -> Picture:
    """What is kept of an image. Raises `BadImage` or `OSError`."""
    encoded, name = images.encoded(index), images.name(index)
    image = read_image(encoded, name)
    with open_image(encoded, name) as file:
        orientation = orientation_of(file)  # before `_kind`, which may decode the file
        return Picture(image.size, _kind(file), orientation, hash_image(image, encoded))


def _kind(file: ImageFile.ImageFile) -> str:
    if is_deep(file):
        file.load()
        return "sixteen-bit" if white_of(file) == WHITES[-1] else "low-range"
    if file.mode in ("P", "PA"):
        return "palette"
    if file.has_transparency_data:
        return "transparent"
    return {"L": "grey", "1": "grey", "RGB": "colour", "CMYK": "cmyk"}.get(file.mode, "other-colours")


def _collect_objects(
    splits: Sequence[ObjectSplit], classes: Mapping[str, int], masks: bool, pixels: bool
) -> ObjectColumns:
    """All annotations that can be read, with what is kept of their masks for instance segmentation."""
    entries = [entry for images in splits for entry in images.entries]
    counts = [len(entry) for entry in entries]
    tables = [np.array([*(classes[name] for name in images.classes), -1], np.int64) for images in splits]
    labels = [table[e.labels] for table, images in zip(tables, splits, strict=True) for e in images.entries]
    boxes = np.concatenate([np.zeros((0, 4)), *(entry.boxes_xywh for entry in entries)])
    shapes = [(shape, e.width, e.height) for e in entries for shape in e.segmentations]
    facts = [_mask_facts(*shape, pixels) for shape in shapes] if masks else []
    return ObjectColumns(
        image=np.repeat(np.arange(len(entries)), counts),
        place=np.concatenate([np.arange(count) for count in (0, *counts)]),
        labels=np.concatenate([np.zeros(0, np.int64), *labels]),
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
        limits=np.array([(width, height) for _, width, height in shapes], np.float64).reshape(-1, 2),
        crowd=np.concatenate([np.zeros(0, bool), *(entry.crowd for entry in entries)]),
        areas=np.concatenate([np.zeros(0), *(entry.stated_areas for entry in entries)]),
        ids=tuple(i for entry in entries for i in entry.ids or (None,) * len(entry)),
        category_ids=tuple(i for entry in entries for i in entry.category_ids or (-1,) * len(entry)),
        segmentations=tuple(shape for shape, *_ in shapes),
        mask_faults=tuple(fault for fault, *_ in facts),
        mask_boxes=np.array([box for _, box, _, _ in facts], np.float64).reshape(-1, 4),
        mask_areas=np.array([area for _, _, area, _ in facts], np.float64),
        mask_beyond=np.array([beyond for *_, beyond in facts], np.float64),
    )


def _mask_facts(segmentation: Any, width: int, height: int, pixels: bool) -> tuple[str, list[float], float, float]:
    """Why a mask cannot be read, the box around its pixels, their number, and by how many it exceeds the image."""
    fault = "" if segmentation is None else rle.fault(segmentation, height, width)
    if segmentation is None or fault or not pixels:
        return fault, [np.nan] * 4, np.nan, 0.0
    mask = rle.from_coco(segmentation, height, width)
    x, y, w, h = np.asarray(coco.toBbox([mask]), np.float64).reshape(4).tolist()
    beyond = 0.0
    if isinstance(segmentation, list):
        points = np.concatenate([np.asarray(p, np.float64).reshape(-1, 2) for p in segmentation])
        beyond = max((-points).max(), (points - (width, height)).max(), 0)
    return "", [x, y, x + w, y + h], float(rle.areas([mask])[0]), beyond


def _semantic_facts(images: MaskSplit, index: int) -> tuple[MapFacts, tuple[int, int]]:
    """What is kept of a map of classes, and its width and height."""
    path = images.entries[index].mask
    try:
        values, coloured = images.code.read(images.root / path, path)
    except BadImage as error:
        return MapFacts(str(error)), (0, 0)
    known, counts = np.unique(values, return_counts=True)
    table = images.code.table(coloured)
    facts = MapFacts(
        values=frozenset(known.tolist()),
        unknown={value: n for value, n in zip(known.tolist(), counts.tolist(), strict=True) if value not in table},
        classes=_add_up(images.code.classes(known, coloured), counts),
        coloured=coloured,
        blur=blur_of(values),
    )
    return facts, (values.shape[1], values.shape[0])


def _panoptic_facts(images: PanopticSplit, index: int) -> tuple[MapFacts, tuple[int, int]]:
    """What is kept of a map of segments, and its width and height."""
    try:
        ids = images.ids(index)
    except BadImage as error:
        return MapFacts(str(error)), (0, 0)
    known, counts = np.unique(ids, return_counts=True)
    pixels = dict(zip(known.tolist(), counts.tolist(), strict=True))
    parts = images.parts(index, ids)
    labels = {part.id: part.label for part in parts}
    segments = []
    for part in parts:
        x1, y1, x2, y2 = rle.box_of(ids == part.id)
        box = (x1, y1, x2 - x1, y2 - y1)
        segments.append(Segment(part.id, part.label, part.crowd, part.stated, pixels.get(part.id, 0), box))
    listed = pixels if images.entries[index].parts is None else {0, *labels}
    facts = MapFacts(
        unknown={value: count for value, count in pixels.items() if value not in listed},
        classes=_add_up(np.array([labels.get(value, IGNORE) for value in pixels]), counts),
        segments=tuple(segments),
    )
    return facts, (ids.shape[1], ids.shape[0])


def _add_up(labels: Values, counts: Values) -> dict[int, int]:
    """Pixels of each class, from the class and the number of pixels of each value."""
    return {label: int(counts[labels == label].sum()) for label in np.unique(labels).tolist()}


def blur_of(values: Values) -> float:
    """Share of the changes along rows that pass through a single pixel of a value between its neighbours'."""
    before, here, after = values[:, :-2], values[:, 1:-1], values[:, 2:]
    changes = int((here != after).sum())
    between = ((before < here) & (here < after)) | ((before > here) & (here > after))
    return float(between.sum() / changes) if changes else 0.0


def _read_values(images: MaskSplit, index: int) -> tuple[Values, Values]:
    """Values (H, W) of a map, and their classes as palette indices."""
    path = images.entries[index].mask
    values, coloured = images.code.read(images.root / path, path)
    return values, images.code.classes(values, coloured)


def _read_ids(images: PanopticSplit, index: int) -> tuple[Values, Values]:
    """Segment ids (H, W) of a map, and a palette index for each."""
    ids = images.ids(index)
    known, places = np.unique(ids, return_inverse=True)
    colours = np.where(known == 0, IGNORE, np.arange(len(known)) % IGNORE)
    return ids, colours[places.reshape(ids.shape)]
